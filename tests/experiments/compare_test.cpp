// Comparing two runs: the interval covers what it should, and two runs are judged by the windows they share.
#include "experiments/compare.h"

#include <gmock/gmock.h>

#include <cmath>

#include "core/error.h"
#include "core/random.h"
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

TEST(Compare, MoreBitsAreBetterAndTheDifferenceIsThatOfTheResults) {
  const Lab lab;
  const Json four = lab.row({"quant.weight.bits=4"}), two = lab.row({"quant.weight.bits=2"});
  const auto comparisons = compare(lab.directory(four), lab.directory(two));
  ASSERT_EQ(comparisons.size(), 1U);
  EXPECT_NEAR(comparisons[0].difference(), Lab::nll_of(two) - Lab::nll_of(four), 1e-12);
  EXPECT_GT(comparisons[0].low, 0);
  EXPECT_THAT(comparison_text(comparisons), HasSubstr("A is better"));
}

TEST(Compare, ARunWithItselfIsUndecided) {
  const Lab lab;
  const std::string directory = lab.directory(lab.row());
  const auto comparisons = compare(directory, directory);
  ASSERT_EQ(comparisons.size(), 1U);
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
