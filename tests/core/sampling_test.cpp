// The next token against shares that are counted by hand.
#include "core/sampling.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"

namespace core {
namespace {

constexpr int kDraws = 20000;

// Share of each index among the draws.
std::vector<double> shares(const std::vector<float>& logits, const Sampling& sampling) {
  Random random(7, "", "test");
  std::vector<double> share(logits.size());
  for (int i = 0; i < kDraws; ++i) share[sample(logits, sampling, random)] += 1.0 / kDraws;
  return share;
}

TEST(Sample, WithoutTemperatureTheLikeliestIsTaken) {
  Random random(1, "", "test"), untouched(1, "", "test");
  EXPECT_EQ(sample(std::vector<float>{0, 3, 3, -1}, {.temperature = 0}, random), 1);
  EXPECT_EQ(random.bits(), untouched.bits()) << "no number is drawn";
}

TEST(Sample, DrawsFromTheSoftmaxOfLogitsOverTemperature) {
  const std::vector<float> logits{1, 0, 2, -1};
  for (const double temperature : {0.5, 1.0, 3.0}) {
    double sum = 0;
    for (const float logit : logits) sum += std::exp(logit / temperature);
    const std::vector<double> share = shares(logits, {.temperature = temperature});
    for (size_t i = 0; i < logits.size(); ++i) {
      const double p = std::exp(logits[i] / temperature) / sum;
      EXPECT_NEAR(share[i], p, 5 * std::sqrt(p * (1 - p) / kDraws)) << i << " at " << temperature;
    }
  }
}

TEST(Sample, TopPKeepsTheLikeliestThatTogetherHaveIt) {
  const std::vector<float> logits{std::log(0.2f), std::log(0.5f), std::log(0.05f), std::log(0.25f)};
  const std::vector<double> two = shares(logits, {.temperature = 1, .top_p = 0.7});  // 0.5 + 0.25 reach 0.7
  EXPECT_EQ(two[0] + two[2], 0.0);
  EXPECT_NEAR(two[1], 2.0 / 3, 0.02);
  EXPECT_NEAR(shares(logits, {.temperature = 1, .top_p = 0.4})[1], 1.0, 1e-9) << "at least one";
  EXPECT_GT(shares(logits, {.temperature = 1, .top_p = 1})[2], 0.0);
}

TEST(Sample, EqualSeedsGiveEqualTokens) {
  const std::vector<float> logits(50, 0.5f);
  Random a(3, "", "test"), b(3, "", "test");
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sample(logits, {.temperature = 1}, a), sample(logits, {.temperature = 1}, b));
}

TEST(Sample, RefusesWhatIsNoNumber) {
  Random random(1, "", "test");
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(sample(std::vector<float>{0, nan}, {.temperature = 1}, random), UserError);
  EXPECT_THROW(sample(std::vector<float>{nan, nan}, {.temperature = 0}, random), UserError);
}

}  // namespace
}  // namespace core
