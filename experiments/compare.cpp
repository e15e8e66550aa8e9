#include "experiments/compare.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>
#include <tuple>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/random.h"
#include "experiments/results/results.h"
#include "experiments/results/table.h"
#include "experiments/run_point.h"
#include "experiments/seed_set.h"

namespace experiments {

namespace {

// What windows.csv holds per window, and its name here. A column that a run lacks is not compared.
struct Quantity {
  const char* column;
  const char* name;
};
constexpr Quantity kQuantities[] = {{"nll_sum", "NLL"}, {"kl_sum", "KL"}, {"top1_agree", "top-1"}};

// One measurement of the quantized model of a run.
struct Measured {
  Json result;  // its entry of results.json
  std::vector<std::vector<double>>
      sums;  // per quantity: sum over the scored tokens of each window; empty: not measured
};

// The sums of the rows [first, first + windows) in one column; empty if it is not there, or has a gap.
std::vector<double> column_of(const std::vector<std::vector<std::string>>& rows, const std::string& column,
                              size_t first, size_t windows) {
  const auto found = std::find(rows[0].begin(), rows[0].end(), column);
  if (found == rows[0].end()) return {};
  const auto index = static_cast<size_t>(found - rows[0].begin());
  std::vector<double> sums;
  for (size_t n = first; n < first + windows; ++n) {
    if (index >= rows[n].size() || rows[n][index].empty()) return {};
    sums.push_back(std::stod(rows[n][index]));
  }
  return sums;
}

std::vector<Measured> read_run(const std::string& directory) {
  const std::string file = directory + "/windows.csv";
  const auto rows = core::parse_csv(core::read_file(file), file);
  size_t next = 1;
  while (next < rows.size() && rows[next].at(0) != "quantized") ++next;
  std::vector<Measured> all;
  const Json results = finished_results(directory);
  for (const Json& p : results["quantized"]["perplexity"]) {
    const size_t windows = p["windows"];
    core::require(next + windows <= rows.size(),
                  "{}: fewer windows than results.json tells of. Run it again with --force.", file);
    Measured& measured = all.emplace_back(Measured{.result = p, .sums = {}});
    for (const Quantity& quantity : kQuantities) {
      measured.sums.push_back(column_of(rows, quantity.column, next, windows));
    }
    next += windows;
  }
  return all;
}

bool same_measurement(const Json& a, const Json& b) {
  return a["corpus"] == b["corpus"] && a["protocol"] == b["protocol"] && a["seq_len"] == b["seq_len"] &&
         a["windows"] == b["windows"];
}

// Runs to be compared with each other; one pair per seed.
using Pairs = std::vector<std::pair<std::string, std::string>>;

Pairs pairs_of(const std::string& a, const std::string& b) {
  const auto of_a = seed_set(a), of_b = seed_set(b);
  const bool one_set = std::any_of(of_a.begin(), of_a.end(),
                                   [&](const auto& run) { return std::filesystem::equivalent(run.second, b); });
  if (one_set) return {{a, b}};
  Pairs pairs;
  for (const auto& [seed_a, run_a] : of_a) {
    for (const auto& [seed_b, run_b] : of_b) {
      if (seed_a == seed_b || of_a.size() == 1 || of_b.size() == 1) pairs.emplace_back(run_a, run_b);
    }
  }
  core::require(!pairs.empty(), "{} and {} were run with several seeds each, none of them in common. Run one more.", a,
                b);
  return pairs;
}

double sum(const std::vector<double>& values) { return std::accumulate(values.begin(), values.end(), 0.0); }

// One quantity over all pairs of runs; every pair has measured it.
Comparison compare_one(const std::vector<std::pair<Measured, Measured>>& pairs, size_t quantity) {
  const Json& p = pairs.front().first.result;
  const double tokens = p["tokens"];
  Comparison c{.corpus = p["corpus"],
               .protocol = p["protocol"],
               .quantity = kQuantities[quantity].name,
               .windows = p["windows"],
               .by_seed = {}};
  const auto share = 1 / (tokens * static_cast<double>(pairs.size()));
  std::vector<double> differences(static_cast<size_t>(c.windows), 0.0);  // per token, mean over the pairs
  for (const auto& [a, b] : pairs) {
    const std::vector<double>&of_a = a.sums[quantity], &of_b = b.sums[quantity];
    c.a += share * sum(of_a);
    c.b += share * sum(of_b);
    c.by_seed.push_back((sum(of_b) - sum(of_a)) / tokens);
    for (size_t n = 0; n < of_a.size(); ++n) {
      differences[n] += (of_b[n] - of_a[n]) * share * static_cast<double>(c.windows);
    }
  }
  std::tie(c.low, c.high) = bootstrap_interval(differences);
  return c;
}

// What is written about a row: who is better, or why nobody is.
std::string verdict(const Comparison& c) {
  if (!c.excludes_zero()) return "undecided";
  if (!c.seeds_agree()) return "undecided: the seeds disagree";
  return c.b_is_better() ? "B is better" : "A is better";
}

std::string value_text(const Comparison& c, double value) {
  return c.quantity == "NLL" ? fmt::format("{:.5f} (ppl {:.4f})", value, std::exp(value))
                             : fmt::format("{:.5f}", value);
}

}  // namespace

bool Comparison::seeds_agree() const {
  const auto positive = [](double d) { return d > 0; };
  const auto negative = [](double d) { return d < 0; };
  return std::all_of(by_seed.begin(), by_seed.end(), positive) || std::all_of(by_seed.begin(), by_seed.end(), negative);
}

std::pair<double, double> bootstrap_interval(const std::vector<double>& differences) {
  constexpr int64_t kResamples = 10'000;
  const auto n = static_cast<int64_t>(differences.size());
  const auto block = std::max<int64_t>(1, std::llround(std::cbrt(static_cast<double>(n))));
  std::vector<double> before(n + 1, 0.0);  // sums of the first i differences
  std::partial_sum(differences.begin(), differences.end(), before.begin() + 1);
  core::Random random(0, "", "moving-block bootstrap");
  std::vector<double> means;
  for (int64_t resample = 0; resample < kResamples; ++resample) {
    double sum = 0;
    for (int64_t drawn = 0; drawn < n; drawn += block) {
      const int64_t length = std::min(block, n - drawn), start = random.below(n - length + 1);
      sum += before[start + length] - before[start];
    }
    means.push_back(sum / static_cast<double>(n));
  }
  std::sort(means.begin(), means.end());
  return {means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};  // 2.5 % on each side
}

std::vector<Comparison> compare(const std::string& a, const std::string& b) {
  std::vector<Comparison> comparisons = compare_pairs(pairs_of(a, b));
  core::require(!comparisons.empty(),
                "{} and {} have no measurement in common. Measure the same corpus, protocol and windows.", a, b);
  return comparisons;
}

std::vector<Comparison> compare_pairs(const Pairs& given) {
  std::vector<std::pair<std::vector<Measured>, std::vector<Measured>>> runs;
  for (const auto& [run_a, run_b] : given) runs.emplace_back(read_run(run_a), read_run(run_b));
  const auto& [first_a, first_b] = runs.front();
  std::vector<Comparison> comparisons;
  for (size_t i = 0; i < first_a.size(); ++i) {
    for (size_t j = 0; j < first_b.size(); ++j) {
      const Json &of_a = first_a[i].result, &of_b = first_b[j].result;
      if (!same_measurement(of_a, of_b)) continue;
      core::require(of_a["token_hash"] == of_b["token_hash"],
                    "{}: the two runs saw other tokens. Compare runs of one tokenizer and text.",
                    of_a["corpus"].get<std::string>());
      std::vector<std::pair<Measured, Measured>> pairs;
      for (const auto& [run_a, run_b] : runs) pairs.emplace_back(run_a.at(i), run_b.at(j));
      for (size_t q = 0; q < std::size(kQuantities); ++q) {
        const bool measured = std::all_of(pairs.begin(), pairs.end(), [&](const auto& pair) {
          return !pair.first.sums[q].empty() && !pair.second.sums[q].empty();
        });
        if (measured) comparisons.push_back(compare_one(pairs, q));
      }
    }
  }
  return comparisons;
}

std::string comparison_text(const std::vector<Comparison>& comparisons) {
  Table table{.columns = {"corpus", "protocol", "windows", "quantity", "A", "B", "B − A", "95 % interval"}, .rows = {}};
  const bool seeds =
      std::any_of(comparisons.begin(), comparisons.end(), [](const Comparison& c) { return c.by_seed.size() > 1; });
  if (seeds) table.columns.emplace_back("by seed");
  table.columns.emplace_back("verdict");
  for (const Comparison& c : comparisons) {
    auto& row = table.rows.emplace_back(std::vector<std::string>{
        c.corpus, c.protocol, std::to_string(c.windows), c.quantity, value_text(c, c.a), value_text(c, c.b),
        fmt::format("{:+.5f}", c.difference()), fmt::format("[{:+.5f}, {:+.5f}]", c.low, c.high)});
    if (seeds) row.push_back(fmt::format("{:+.5f}", fmt::join(c.by_seed, " ")));
    row.push_back(verdict(c));
  }
  return table.text();
}

}  // namespace experiments
