// Whether run B differs from run A: the same windows of the same text, compared in pairs.
#pragma once

#include <string>
#include <vector>

namespace experiments {

// One measurement that both runs have.
struct Comparison {
  std::string corpus, protocol;
  int64_t windows = 0;
  double nll_a = 0, nll_b = 0;  // mean per token, nats
  double low = 0, high = 0;     // 95 % interval of nll_b − nll_a

  double difference() const { return nll_b - nll_a; }
  bool clear() const { return low > 0 || high < 0; }  // the interval excludes 0
};

// The 95 % interval of the mean of `differences` by the moving-block bootstrap (Künsch 1989): blocks of consecutive
// windows, as long as the cube root of their number, are drawn with replacement, 10,000 times, from our own seeded
// generator.
std::pair<double, double> bootstrap_interval(const std::vector<double>& differences);

// a, b: run directories. Errors: a directory without results, no measurement in common, other tokens under the same
// name.
std::vector<Comparison> compare(const std::string& a, const std::string& b);

std::string comparison_text(const std::vector<Comparison>& comparisons);  // a table and one sentence each

}  // namespace experiments
