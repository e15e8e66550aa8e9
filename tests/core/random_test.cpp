// The generator: the authors' known answers, independence of purposes, and the shape of its numbers.
#include "core/random.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace core {
namespace {

using Words = std::array<uint32_t, 4>;

TEST(Philox, GivesTheKnownAnswersOfItsAuthors) {  // Random123's kat_vectors, philox4x32 with 10 rounds
  EXPECT_EQ(philox({0, 0, 0, 0}, {0, 0}), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  const uint32_t ones = 0xffffffff;
  EXPECT_EQ(philox({ones, ones, ones, ones}, {ones, ones}), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(Random, SeedModulePurposeAndStepEachGiveAnotherStream) {
  const uint32_t base = Random(1, "a", "noise", 0).bits();
  EXPECT_EQ(Random(1, "a", "noise", 0).bits(), base);
  EXPECT_NE(Random(2, "a", "noise", 0).bits(), base);
  EXPECT_NE(Random(1, "b", "noise", 0).bits(), base);
  EXPECT_NE(Random(1, "a", "rounding", 0).bits(), base);
  EXPECT_NE(Random(1, "a", "noise", 1).bits(), base);
}

TEST(Random, BelowIsUniform) {
  Random random(7, "", "test");
  constexpr int64_t kBound = 10, kDraws = 100'000;
  std::vector<int64_t> counts(kBound, 0);
  for (int64_t i = 0; i < kDraws; ++i) ++counts.at(random.below(kBound));
  const double mean = static_cast<double>(kDraws) / kBound, sigma = std::sqrt(mean * (1 - 1.0 / kBound));
  for (int64_t value = 0; value < kBound; ++value) EXPECT_NEAR(counts[value], mean, 5 * sigma) << value;
}

TEST(Random, UniformLiesInTheUnitIntervalWithItsMeanAndVariance) {
  Random random(8, "", "test");
  constexpr int kDraws = 100'000;
  double sum = 0, squares = 0;
  for (int i = 0; i < kDraws; ++i) {
    const double x = random.uniform();
    ASSERT_GE(x, 0.0);
    ASSERT_LT(x, 1.0);
    sum += x;
    squares += (x - 0.5) * (x - 0.5);
  }
  EXPECT_NEAR(sum / kDraws, 0.5, 5 * std::sqrt(1.0 / 12 / kDraws));
  EXPECT_NEAR(squares / kDraws, 1.0 / 12, 5 * std::sqrt(1.0 / 180 / kDraws));
}

}  // namespace
}  // namespace core
