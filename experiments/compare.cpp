#include "experiments/compare.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/random.h"
#include "experiments/results/results.h"
#include "experiments/results/table.h"
#include "experiments/run_point.h"

namespace experiments {

namespace {

// The quantized model's measurements of a run.
struct Run {
  Json results;
  std::vector<std::vector<double>> window_nll;  // per measurement, in the order of results: sum per window, nats
};

Run read_run(const std::string& directory) {
  Run run{.results = finished_results(directory), .window_nll = {}};
  core::require(!run.results.is_null(),
                "{}: no results.json of a finished run here. Give a directory runs/<name>/<id>.", directory);
  const std::string file = directory + "/windows.csv";
  const auto rows = core::parse_csv(core::read_file(file), file);
  size_t next = 1;
  while (next < rows.size() && rows[next].at(0) != "quantized") ++next;
  for (const Json& p : run.results["quantized"]["perplexity"]) {
    std::vector<double>& sums = run.window_nll.emplace_back();
    for (int64_t n = 0; n < p["windows"]; ++n, ++next) {
      core::require(next < rows.size() && rows[next].size() == 6,
                    "{}: fewer windows than results.json tells of. Run it again with --force.", file);
      sums.push_back(std::stod(rows[next][5]));
    }
  }
  return run;
}

bool same_measurement(const Json& a, const Json& b) {
  return a["corpus"] == b["corpus"] && a["protocol"] == b["protocol"] && a["seq_len"] == b["seq_len"] &&
         a["windows"] == b["windows"];
}

Comparison compare_one(const Json& a, const std::vector<double>& nll_a, const Json& b,
                       const std::vector<double>& nll_b) {
  core::require(a["token_hash"] == b["token_hash"],
                "{}: the two runs saw other tokens. Compare runs of one tokenizer and text.",
                a["corpus"].get<std::string>());
  const double tokens = a["tokens"].get<double>() / a["windows"].get<double>();  // scored per window
  std::vector<double> differences;
  for (size_t n = 0; n < nll_a.size(); ++n) differences.push_back((nll_b[n] - nll_a[n]) / tokens);
  const auto [low, high] = bootstrap_interval(differences);
  return {.corpus = a["corpus"],
          .protocol = a["protocol"],
          .windows = a["windows"],
          .nll_a = a["nll"],
          .nll_b = b["nll"],
          .low = low,
          .high = high};
}

}  // namespace

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
  const Run first = read_run(a), second = read_run(b);
  const Json& of_a = first.results["quantized"]["perplexity"];
  const Json& of_b = second.results["quantized"]["perplexity"];
  std::vector<Comparison> comparisons;
  for (size_t i = 0; i < of_a.size(); ++i) {
    for (size_t j = 0; j < of_b.size(); ++j) {
      if (!same_measurement(of_a[i], of_b[j])) continue;
      comparisons.push_back(compare_one(of_a[i], first.window_nll[i], of_b[j], second.window_nll[j]));
    }
  }
  core::require(!comparisons.empty(),
                "{} and {} have no measurement in common. Measure the same corpus, protocol and windows.", a, b);
  return comparisons;
}

std::string comparison_text(const std::vector<Comparison>& comparisons) {
  Table table{
      .columns = {"corpus", "protocol", "windows", "ppl A", "ppl B", "ΔNLL (B − A)", "95 % interval", "verdict"},
      .rows = {}};
  for (const Comparison& c : comparisons) {
    table.rows.push_back({c.corpus, c.protocol, std::to_string(c.windows), fmt::format("{:.4f}", std::exp(c.nll_a)),
                          fmt::format("{:.4f}", std::exp(c.nll_b)), fmt::format("{:+.5f}", c.difference()),
                          fmt::format("[{:+.5f}, {:+.5f}]", c.low, c.high),
                          !c.clear()           ? "undecided"
                          : c.difference() < 0 ? "B is better"
                                               : "A is better"});
  }
  return table.text();
}

}  // namespace experiments
