// How many bits each expert of a mixture gets (MC-MoE, Huang 2024, arXiv 2410.06270): the allocation whose weighted
// output error is least, found exactly, beside what it must beat: all experts alike, and bits drawn at random. Every
// block has the same budget. What MC-MoE also asks for, an expert of 3 and one of 2 bits in every block, is left out.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/config/keys.h"

namespace quant {

struct ExpertBitsConfig : core::Section {
  static constexpr const char* kNone = "none";  // experts have the bits of quant.weight

  std::string policy = kNone;
  double mean_bits = 2, alpha = 1, beta = 2;
  std::vector<int64_t> choices{1, 2, 3, 4};

  void keys(core::Keys& k) override;
  void check() const override;
  bool selected() const { return policy != kNone; }
  int64_t budget(int64_t experts) const;  // bits per weight of all experts of a block together
};

// One of `choices` for each expert, with least Σ costs[expert][choice] among those of Σ choice ≤ budget: a dynamic
// program over experts and bits spent. Of equal ones the lower bits, from the last expert on. costs: one row per
// expert, one column per choice; choices ascend, and the lowest of all fits the budget (TORCH_CHECK).
std::vector<int64_t> optimal_bits(const std::vector<std::vector<double>>& costs, const std::vector<int64_t>& choices,
                                  int64_t budget);

// All start at the lowest of `choices`; one after the other, drawn from the seed, gets the next higher one while one
// fits.
std::vector<int64_t> random_bits(int64_t experts, const std::vector<int64_t>& choices, int64_t budget, uint64_t seed,
                                 const std::string& block);

}  // namespace quant
