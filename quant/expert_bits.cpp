#include "quant/expert_bits.h"

#include <c10/util/Exception.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/random.h"

namespace quant {

void ExpertBitsConfig::keys(core::Keys& k) {
  k.key("policy", policy,
        "none: experts have the bits of quant.weight; optimal: least output error of a block, each expert's weighted "
        "with frequency^alpha gate^beta (MC-MoE); random: drawn from the seed; uniform: all alike. Rules come after it",
        {kNone, "optimal", "random", "uniform"});
  k.key("mean_bits", mean_bits, "bits of the codes of the experts of a block, on average", {1, 8});
  core::Key& a = k.key("alpha", alpha, "power of an expert's share of the tokens; read by policy: optimal", {0, 8});
  core::Key& b =
      k.key("beta", beta, "power of the mean weight that its tokens give it; read by policy: optimal", {0, 8});
  core::Key& c = k.key("choices", choices, "bits that an expert may get; read by optimal and random", {1, 4});
  for (core::Key* key : {&a, &b}) {
    if (policy != "optimal") key->only_if_given();
  }
  if (policy != "optimal" && policy != "random") c.only_if_given();
}

void ExpertBitsConfig::check() const {
  const auto require_read = [&](const char* key, bool read) {
    core::require(!given(key) || read, "{} is not read with policy: {}. Remove one of the two.", where(key), policy);
  };
  const bool chooses = policy == "optimal" || policy == "random";
  require_read("mean_bits", selected());
  require_read("alpha", policy == "optimal");
  require_read("beta", policy == "optimal");
  require_read("choices", chooses);
  if (!selected()) return;
  if (!chooses) {
    core::require(mean_bits == std::floor(mean_bits),
                  "{}: {} is no whole number of bits, and all experts get the same. "
                  "Choose policy: optimal, or a whole number.",
                  where("mean_bits"), mean_bits);
    return;
  }
  const bool ascend = std::is_sorted(choices.begin(), choices.end(), std::less_equal<>());
  core::require(!choices.empty() && ascend, "{} must be different numbers of bits that ascend, e.g. [1, 2, 3, 4].",
                where("choices"));
  core::require(static_cast<double>(choices.front()) <= mean_bits && mean_bits <= static_cast<double>(choices.back()),
                "{}: {} is not between the lowest and the highest of the choices, {} and {}.", where("mean_bits"),
                mean_bits, choices.front(), choices.back());
}

int64_t ExpertBitsConfig::budget(int64_t experts) const {
  return static_cast<int64_t>(std::floor(mean_bits * static_cast<double>(experts) + 1e-9));
}

std::vector<int64_t> optimal_bits(const std::vector<std::vector<double>>& costs, const std::vector<int64_t>& choices,
                                  int64_t budget) {
  constexpr double kNever = std::numeric_limits<double>::infinity();
  const auto E = static_cast<int64_t>(costs.size());
  TORCH_CHECK(!choices.empty() && E * choices.front() <= budget, "the lowest choice of all experts exceeds ", budget);
  // least[e][b]: of the first e experts, b bits spent exactly; chosen[e][b]: what expert e then has, as an index.
  std::vector<std::vector<double>> least(E + 1, std::vector<double>(budget + 1, kNever));
  std::vector<std::vector<size_t>> chosen(E, std::vector<size_t>(budget + 1, 0));
  least[0][0] = 0;
  for (int64_t e = 0; e < E; ++e) {
    for (size_t c = 0; c < choices.size(); ++c) {
      for (int64_t spent = choices[c]; spent <= budget; ++spent) {
        const double cost = least[e][spent - choices[c]] + costs[e][c];
        if (cost >= least[e + 1][spent]) continue;
        least[e + 1][spent] = cost;
        chosen[e][spent] = c;
      }
    }
  }
  int64_t spent = std::min_element(least[E].begin(), least[E].end()) - least[E].begin();
  std::vector<int64_t> bits(E);
  for (int64_t e = E - 1; e >= 0; --e) {
    bits[e] = choices[chosen[e][spent]];
    spent -= bits[e];
  }
  return bits;
}

std::vector<int64_t> random_bits(int64_t experts, const std::vector<int64_t>& choices, int64_t budget, uint64_t seed,
                                 const std::string& block) {
  core::Random random(seed, block, "expert_bits");
  std::vector<size_t> level(experts, 0);
  int64_t left = budget - experts * choices.front();
  const auto step = [&](int64_t e) { return choices[level[e] + 1] - choices[level[e]]; };
  for (;;) {
    std::vector<int64_t> open;
    for (int64_t e = 0; e < experts; ++e) {
      if (level[e] + 1 < choices.size() && step(e) <= left) open.push_back(e);
    }
    if (open.empty()) break;
    const int64_t e = open[random.below(static_cast<int64_t>(open.size()))];
    left -= step(e);
    ++level[e];
  }
  std::vector<int64_t> bits;
  for (const size_t at : level) bits.push_back(choices[at]);
  return bits;
}

}  // namespace quant
