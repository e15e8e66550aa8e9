// Whether run B differs from run A: the same windows of the same text, compared in pairs. A run that was repeated with
// other seeds stands for all of them.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/measure/measure.h"

namespace experiments {

// One quantity of one measurement that both runs have.
struct Comparison {
  std::string measured_on;      // label of the measurement: "tiny/test (gptq 256)"
  ItemQuantity quantity;        // as its measure describes it: "NLL" or "KL", nats per token, "top-1", share of them
  bool is_first = false;        // of the measure's quantities: it decides comparisons with controls
  int64_t items = 0;            // windows
  double a = 0, b = 0;          // means over tokens, and over the seeds
  double low = 0, high = 0;     // 95 % interval of b − a over items, of the mean over the seeds
  std::vector<double> by_seed;  // b − a of every pair of runs; one if there is one seed
  // Of shares, in the first pair of runs: the exact two-sided p of McNemar's test (1947), that items which only one of
  // both gets right fall to either side alike.
  std::optional<double> p = {};
  std::optional<double> changed = {};  // share of items with another answer, in the first pair; none: they have none

  double difference() const { return b - a; }
  // Whether items by themselves could hardly differ so: the interval excludes 0, and of shares McNemar's p is below
  // 0.05.
  bool is_no_chance() const { return (low > 0 || high < 0) && (!p || *p < 0.05); }
  bool seeds_agree() const;                                         // all differences have one sign
  bool decided() const { return is_no_chance() && seeds_agree(); }  // what a verdict needs
  bool b_is_better() const { return quantity.less_is_better ? b <= a : b > a; }
};

// The exact two-sided p of McNemar's test: of `a` and `b` items that are right on one side alone. 1 for none.
double mcnemar(int64_t a, int64_t b);

// a, b: run directories. Finished runs beside one that differ from it by nothing but the seed belong to it; runs of
// equal seeds are paired, and a side with one run is paired with every run of the other. Two runs of one such set are
// compared alone. Errors: a directory without results, no measurement in common, other tokens under the same name, two
// sets without a common seed.
std::vector<Comparison> compare(const std::string& a, const std::string& b);

// The same for pairs of run directories {a, b} that the caller has chosen; each counts as a seed.
std::vector<Comparison> compare_pairs(const std::vector<std::pair<std::string, std::string>>& pairs);

std::string comparison_text(const std::vector<Comparison>& comparisons);  // a table with a verdict per row

}  // namespace experiments
