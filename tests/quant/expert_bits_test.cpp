// Bits of experts: the dynamic program against every allocation there is, and the allocations that it must beat.
#include "quant/expert_bits.h"

#include <gmock/gmock.h>

#include <limits>
#include <numeric>

#include "core/error.h"
#include "core/random.h"
#include "quant/config.h"

namespace quant {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Costs = std::vector<std::vector<double>>;

double cost_of(const Costs& costs, const std::vector<int64_t>& choices, const std::vector<int64_t>& bits) {
  double sum = 0;
  for (size_t e = 0; e < bits.size(); ++e)
    sum += costs[e][std::find(choices.begin(), choices.end(), bits[e]) - choices.begin()];
  return sum;
}

int64_t sum_of(const std::vector<int64_t>& bits) { return std::accumulate(bits.begin(), bits.end(), int64_t{0}); }

// The least cost of all |choices|^E allocations.
double exhaustive(const Costs& costs, const std::vector<int64_t>& choices, int64_t budget, size_t expert = 0) {
  if (expert == costs.size()) return budget >= 0 ? 0 : std::numeric_limits<double>::infinity();
  double least = std::numeric_limits<double>::infinity();
  for (size_t c = 0; c < choices.size(); ++c)
    least = std::min(least, costs[expert][c] + exhaustive(costs, choices, budget - choices[c], expert + 1));
  return least;
}

TEST(ExpertBits, TheDynamicProgramFindsWhatSearchingAllAllocationsFinds) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    core::Random random(seed, "", "test");
    const int64_t E = 1 + random.below(6);
    const std::vector<int64_t> choices = seed % 3 == 0   ? std::vector<int64_t>{1, 2, 3, 4}
                                         : seed % 3 == 1 ? std::vector<int64_t>{2, 4}
                                                         : std::vector<int64_t>{1, 3, 4};
    Costs costs(E);
    for (auto& row : costs) {
      // Mostly falling; every fourth table is arbitrary, so that more bits may cost more.
      for (size_t c = 0; c < choices.size(); ++c)
        row.push_back(seed % 4 == 0 ? random.uniform()
                                    : random.uniform() / static_cast<double>(choices[c] * choices[c]));
    }
    const int64_t budget = E * choices.front() + random.below(E * (choices.back() - choices.front()) + 1);
    const std::vector<int64_t> bits = optimal_bits(costs, choices, budget);
    EXPECT_LE(sum_of(bits), budget) << seed;
    EXPECT_NEAR(cost_of(costs, choices, bits), exhaustive(costs, choices, budget), 1e-12) << seed;
  }
}

TEST(ExpertBits, OfEqualCostsTheLowerBits) {
  EXPECT_THAT(optimal_bits({{0, 0, 0}, {5, 3, 1}}, {1, 2, 3}, 6), ElementsAre(1, 3)) << "an expert without tokens";
  EXPECT_THAT(optimal_bits({{4, 4}, {4, 4}}, {1, 2}, 3), ElementsAre(1, 1));
}

TEST(ExpertBits, DrawnOnesSpendTheBudgetAndFollowFromTheSeed) {
  std::set<std::vector<int64_t>> different;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<int64_t> bits = random_bits(8, {1, 2, 3, 4}, 19, seed, "block");
    EXPECT_EQ(sum_of(bits), 19);
    EXPECT_EQ(bits, random_bits(8, {1, 2, 3, 4}, 19, seed, "block"));
    different.insert(bits);
  }
  EXPECT_GT(different.size(), 10u);
  EXPECT_EQ(sum_of(random_bits(3, {2, 4}, 9, 1, "block")), 8) << "a step of two does not fit into one";
}

std::string refusal(const std::string& yaml) {
  QuantConfig config;
  try {
    core::bind(core::parse_yaml("expert_bits: " + yaml, "a.yaml"), config, "quant");
  } catch (const core::UserError& error) {
    return error.what();
  }
  return "";
}

TEST(ExpertBits, WhatIsNotReadOrCannotBeIsRefused) {
  EXPECT_EQ(refusal("{policy: optimal, mean_bits: 2.5, alpha: 2}"), "");
  EXPECT_THAT(refusal("{policy: random, alpha: 2}"), HasSubstr("alpha is not read with policy: random"));
  EXPECT_THAT(refusal("{mean_bits: 3}"), HasSubstr("mean_bits is not read with policy: none"));
  EXPECT_THAT(refusal("{policy: uniform, mean_bits: 2.5}"), HasSubstr("2.5 is no whole number of bits"));
  EXPECT_THAT(refusal("{policy: optimal, mean_bits: 3, choices: [1, 2]}"), HasSubstr("not between the lowest and the"));
  EXPECT_THAT(refusal("{policy: optimal, choices: [2, 1]}"), HasSubstr("numbers of bits that ascend"));
}

}  // namespace
}  // namespace quant
