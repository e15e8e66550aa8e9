// Comparing two runs: the interval covers what it should, and two runs are judged by the windows they share.
#include "experiments/results/compare.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "experiments/measure/bootstrap.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using testing::HasSubstr;
using testing::ThrowsMessage;

// Sum of twelve uniforms: mean 0, variance 1, near enough to normal.
double noise(core::Random& random) {
  double sum = -6;
  for (int i = 0; i < 12; ++i) sum += random.uniform();
  return sum;
}

TEST(Bootstrap, CoversTheTrueMeanOfIndependentDifferencesAboutAsOftenAsItSays) {
  core::Random random(3, "", "test");
  constexpr int kTrials = 100, kWindows = 200;
  constexpr double kMean = 0.1;
  int covered = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> differences(kWindows);
    for (double& d : differences) d = kMean + noise(random);
    const auto [low, high] = bootstrap_interval(differences);
    EXPECT_NEAR(high - low, 2 * 1.96 / std::sqrt(kWindows), 0.35 * 2 * 1.96 / std::sqrt(kWindows));
    covered += low <= kMean && kMean <= high ? 1 : 0;
  }
  EXPECT_GE(covered, 85);  // of 100 at 95 %: below 85 has a probability under 1e-4, blocks included
}

TEST(Bootstrap, CoversTheMeanOfDependentDifferencesToo) {
  core::Random random(5, "", "test");
  constexpr int kTrials = 100, kWindows = 400;
  constexpr double kMean = -0.2, kPhi = 0.4;  // each difference holds on to 0.4 of the one before
  int covered = 0, covered_if_independent = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    std::vector<double> differences(kWindows);
    double state = noise(random) / std::sqrt(1 - kPhi * kPhi);
    for (double& d : differences) {
      d = kMean + state;
      state = kPhi * state + noise(random);
    }
    const auto [low, high] = bootstrap_interval(differences);
    covered += low <= kMean && kMean <= high ? 1 : 0;
    const double mean = std::accumulate(differences.begin(), differences.end(), 0.0) / kWindows;
    const double naive = 1.96 / std::sqrt((1 - kPhi * kPhi) * kWindows);
    covered_if_independent += std::abs(mean - kMean) <= naive ? 1 : 0;
  }
  EXPECT_GE(covered, 82);  // of 100; blocks of 7 see about 90 % of the variance: 93 % are expected
  EXPECT_GT(covered, covered_if_independent) << "blocks know what the formula for independent values does not";
}

// The same resamples, written out: every one as a list of values.
std::pair<double, double> slow_interval(const std::vector<double>& differences, int64_t block) {
  core::Random random(0, "", "moving-block bootstrap");
  std::vector<double> means;
  for (int resample = 0; resample < 10'000; ++resample) {
    std::vector<double> drawn;
    while (drawn.size() < differences.size()) {
      const auto length = std::min<int64_t>(block, static_cast<int64_t>(differences.size() - drawn.size()));
      const int64_t start = random.below(static_cast<int64_t>(differences.size()) - length + 1);
      for (int64_t i = 0; i < length; ++i) drawn.push_back(differences[start + i]);
    }
    means.push_back(std::accumulate(drawn.begin(), drawn.end(), 0.0) / static_cast<double>(drawn.size()));
  }
  std::sort(means.begin(), means.end());
  return {means[250], means[9749]};
}

TEST(Bootstrap, IsTheSlowOne) {
  core::Random random(6, "", "test");
  for (const auto& [windows, block] : std::vector<std::pair<int, int>>{{1, 1}, {2, 1}, {4, 2}, {10, 2}, {50, 4}}) {
    std::vector<double> differences(windows);
    for (double& d : differences) d = noise(random);
    const auto [low, high] = bootstrap_interval(differences);
    const auto [slow_low, slow_high] = slow_interval(differences, block);
    EXPECT_NEAR(low, slow_low, 1e-12) << windows;
    EXPECT_NEAR(high, slow_high, 1e-12) << windows;
  }
}

// 27 windows make 9 blocks of 3 out of 25 possible ones: the variance of a resampled mean is that of a block's mean
// / 9.
TEST(Bootstrap, HasTheWidthThatFollowsFromTheMeansOfItsBlocks) {
  core::Random random(7, "", "test");
  std::vector<double> differences(27), blocks;
  for (double& d : differences) d = noise(random);
  for (size_t i = 0; i + 3 <= differences.size(); ++i) {
    blocks.push_back((differences[i] + differences[i + 1] + differences[i + 2]) / 3);
  }
  double mean = 0, variance = 0;
  for (const double b : blocks) mean += b / 25;
  for (const double b : blocks) variance += (b - mean) * (b - mean) / 25;
  const auto [low, high] = bootstrap_interval(differences);
  const double expected = 2 * 1.96 * std::sqrt(variance / 9);
  EXPECT_NEAR(high - low, expected, 0.06 * expected);  // nearly normal: a sum of nine
  EXPECT_NEAR((high + low) / 2, mean, 0.1 * expected);
}

TEST(Bootstrap, IsWiderWhenNeighbouringWindowsAreAlike) {
  core::Random random(4, "", "test");
  std::vector<double> alone, in_runs;
  for (int i = 0; i < 1000; ++i) alone.push_back(noise(random));
  for (int i = 0; i < 1000; ++i) in_runs.push_back(alone[i / 10 * 10]);  // ten equal windows in a row
  const auto [low_alone, high_alone] = bootstrap_interval(alone);
  const auto [low_runs, high_runs] = bootstrap_interval(in_runs);
  EXPECT_GT(high_runs - low_runs, 1.8 * (high_alone - low_alone));
}

TEST(Bootstrap, OfEqualDifferencesIsThatValue) {
  const auto [low, high] = bootstrap_interval(std::vector<double>(5, 0.25));
  EXPECT_DOUBLE_EQ(low, 0.25);
  EXPECT_DOUBLE_EQ(high, 0.25);
}

// ---- two runs ----

// A directory with runs that were never computed: what comparing reads of them.
class Runs {
 public:
  // window_sums: per window and quantity (NLL, KL, agreeing tokens); each window scores 10 tokens.
  std::string put(const std::string& id, int64_t bits, int64_t seed, const std::vector<std::array<double, 3>>& windows,
                  const std::string& columns = "nll_sum,kl_sum,top1_agree") const {
    const std::string directory = scratch_.file(id);
    std::filesystem::create_directory(directory);
    const auto count = static_cast<int64_t>(windows.size());
    const Json p{{"corpus", "text"}, {"protocol", "gptq"},   {"seq_len", 11},
                 {"windows", count}, {"tokens", 10 * count}, {"token_hash", "f00d"}};
    const Json results{{"schema", 1},
                       {"seed", seed},
                       {"hashes", {{"model", "m"}, {"tokenizer", "t"}}},
                       {"stages", {{{"name", "quantize"}, {"version", 1}}}},
                       {"quantized", {{"perplexity", {p}}}}};
    scratch_.put(id + "/results.json", results.dump());
    scratch_.put(id + "/resolved.yaml",
                 fmt::format("name: n\nmodel: {{path: m}}\nseed: {}\nquant: {{weight: {{bits: {}}}}}\n", seed, bits));
    std::string csv = "model,corpus,protocol,window,tokens," + columns + "\nbaseline,text,gptq,0,10,1,,\n";
    for (size_t n = 0; n < windows.size(); ++n) {
      csv += fmt::format("quantized,text,gptq,{},10,{},{},{}\n", n, windows[n][0], windows[n][1], windows[n][2]);
    }
    scratch_.put(id + "/windows.csv", csv);
    return directory;
  }
  std::string path() const { return scratch_.path(); }

 private:
  core::Scratch scratch_;
};

TEST(Compare, LossDivergenceAndAgreementEachHaveTheirDirection) {
  const Runs runs;
  const std::string a = runs.put("a", 2, 1, {{20, 1.5, 5}, {24, 1.0, 6}}),
                    b = runs.put("b", 3, 1, {{19, 0.5, 7}, {22, 0.25, 9}});
  const auto comparisons = compare(a, b);
  ASSERT_EQ(comparisons.size(), 3U);
  EXPECT_EQ(comparisons[0].quantity.name, "NLL");
  EXPECT_DOUBLE_EQ(comparisons[0].a, 44.0 / 20);
  EXPECT_NEAR(comparisons[0].difference(), -3.0 / 20, 1e-12);
  EXPECT_EQ(comparisons[1].quantity.name, "KL");
  EXPECT_DOUBLE_EQ(comparisons[1].b, 0.75 / 20);
  EXPECT_EQ(comparisons[2].quantity.name, "top-1");
  EXPECT_DOUBLE_EQ(comparisons[2].b, 16.0 / 20);
  for (const Comparison& c : comparisons) {
    EXPECT_TRUE(c.decided() && c.b_is_better()) << c.quantity.name;
    EXPECT_LE(c.low, c.difference());
    EXPECT_GE(c.high, c.difference());
  }
  for (const Comparison& c : compare(b, a)) EXPECT_TRUE(c.decided() && !c.b_is_better()) << c.quantity.name;
}

TEST(Compare, WhatOneRunDidNotMeasureIsLeftOut) {
  const Runs runs;
  const std::string a = runs.put("a", 2, 1, {{20, 1, 5}, {24, 1, 6}}),
                    b = runs.put("b", 3, 1, {{19, 1, 7}, {22, 1, 9}}, "nll_sum,other,top1_agree");
  const auto comparisons = compare(a, b);
  ASSERT_EQ(comparisons.size(), 2U);
  EXPECT_EQ(comparisons[1].quantity.name, "top-1");
}

TEST(Compare, ARunStandsForAllItsSeedsAndEqualSeedsArePaired) {
  const Runs runs;
  const std::string a = runs.put("a1", 2, 1, {{20, 1, 5}, {24, 1, 6}}),
                    b = runs.put("b1", 3, 1, {{19, 1, 5}, {22, 1, 6}});
  runs.put("a2", 2, 2, {{30, 1, 5}, {34, 1, 6}});
  runs.put("b2", 3, 2, {{28, 1, 5}, {31, 1, 6}});
  runs.put("b3", 3, 3, {{90, 1, 5}, {90, 1, 6}});  // has no partner
  runs.put("c", 4, 1, {{0, 0, 0}, {0, 0, 0}});     // another configuration
  const Comparison nll = compare(a, b).at(0);
  EXPECT_THAT(nll.by_seed, testing::ElementsAre(testing::DoubleEq(-3.0 / 20), testing::DoubleEq(-5.0 / 20)));
  EXPECT_DOUBLE_EQ(nll.a, (44.0 + 64.0) / 40);
  EXPECT_NEAR(nll.difference(), -4.0 / 20, 1e-12);
  EXPECT_TRUE(nll.decided());
  EXPECT_THAT(comparison_text(compare(a, b)), HasSubstr("-0.15000 -0.25000"));
}

TEST(Compare, AVerdictNeedsAllSeedsToAgree) {
  const Runs runs;
  const std::string a = runs.put("a1", 2, 1, {{20, 1, 5}, {20, 1, 6}}),
                    b = runs.put("b1", 3, 1, {{10, 1, 5}, {10, 1, 6}});
  runs.put("a2", 2, 2, {{20, 1, 5}, {20, 1, 6}});
  runs.put("b2", 3, 2, {{21, 1, 5}, {21, 1, 6}});
  const Comparison nll = compare(a, b).at(0);
  EXPECT_LT(nll.high, 0) << "the mean is clear";
  EXPECT_FALSE(nll.decided());
  EXPECT_THAT(comparison_text({nll}), HasSubstr("undecided: the seeds disagree"));
}

TEST(Compare, ASingleRunIsPairedWithEverySeedOfTheOther) {
  const Runs runs;
  const std::string a = runs.put("a", 2, 42, {{20, 1, 5}, {20, 1, 6}}),
                    b = runs.put("b1", 3, 1, {{10, 1, 5}, {10, 1, 6}});
  runs.put("b2", 3, 2, {{12, 1, 5}, {12, 1, 6}});
  EXPECT_THAT(compare(a, b).at(0).by_seed, testing::ElementsAre(testing::DoubleEq(-1), testing::DoubleEq(-0.8)));
}

TEST(Compare, TwoSeedsOfOneConfigurationAreComparedAlone) {
  const Runs runs;
  const std::string one = runs.put("a1", 2, 1, {{20, 1, 5}, {20, 1, 6}}),
                    two = runs.put("a2", 2, 2, {{10, 1, 5}, {10, 1, 6}});
  runs.put("a3", 2, 3, {{0, 1, 5}, {0, 1, 6}});
  EXPECT_THAT(compare(one, two).at(0).by_seed, testing::ElementsAre(testing::DoubleEq(-1)));
}

TEST(Compare, SetsWithoutACommonSeedAreRefused) {
  const Runs runs;
  const std::string a = runs.put("a1", 2, 1, {{20, 1, 5}}), b = runs.put("b3", 3, 3, {{10, 1, 5}});
  runs.put("a2", 2, 2, {{20, 1, 5}});
  runs.put("b4", 3, 4, {{21, 1, 5}});
  EXPECT_EQ(core::message_of([&] { compare(a, b); }),
            a + " and " + b + " were run with several seeds each, none of them in common. Run one more.");
}

TEST(Compare, SeedsOfRealRunsAreFound) {
  const Lab lab;
  const Outcome four = lab.run({"quant.weight.bits=4", "seeds=[1, 2]"}), two = lab.run({"seeds=[1, 2]"});
  const auto comparisons = compare(lab.directory(four.rows[0].json()), lab.directory(two.rows[1].json()));
  EXPECT_EQ(comparisons.at(0).by_seed.size(), 2U);
  EXPECT_THAT(comparison_text(comparisons), HasSubstr("A is better"));
}

TEST(Compare, MoreBitsAreBetterAndTheDifferenceIsThatOfTheResults) {
  const Lab lab;
  const Json four = lab.row({"quant.weight.bits=4"}), two = lab.row({"quant.weight.bits=2"});
  const auto comparisons = compare(lab.directory(four), lab.directory(two));
  ASSERT_GE(comparisons.size(), 1U);
  EXPECT_NEAR(comparisons[0].difference(), Lab::nll_of(two) - Lab::nll_of(four), 1e-12);
  EXPECT_GT(comparisons[0].low, 0);
  EXPECT_THAT(comparison_text(comparisons), HasSubstr("A is better"));
}

TEST(Compare, ARunWithItselfIsUndecided) {
  const Lab lab;
  const std::string directory = lab.directory(lab.row());
  const auto comparisons = compare(directory, directory);
  ASSERT_GE(comparisons.size(), 1U);
  EXPECT_EQ(comparisons[0].difference(), 0);
  EXPECT_THAT(comparison_text(comparisons), HasSubstr("undecided"));
}

TEST(Compare, ADirectoryWithoutResultsIsRefused) {
  const Lab lab;
  const std::string directory = lab.directory(lab.row());
  EXPECT_THAT([&] { compare(directory, "nowhere"); },
              ThrowsMessage<core::UserError>(
                  "nowhere: no results.json of a finished run here. Give a directory runs/<name>/<id>."));
}

}  // namespace
}  // namespace experiments
