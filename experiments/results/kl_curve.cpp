#include "experiments/results/kl_curve.h"

#include <algorithm>
#include <cmath>

namespace experiments {

std::optional<KlExchange> kl_exchange(std::vector<std::pair<double, double>> curve, double kl, double bits,
                                      double single_bits) {
  constexpr double kNoExtra = 0.005;  // bits per weight
  if (kl <= 0) return std::nullopt;
  std::sort(curve.begin(), curve.end());
  for (size_t i = 0; i + 1 < curve.size(); ++i) {
    const auto [b0, kl0] = curve[i];
    const auto [b1, kl1] = curve[i + 1];
    if (kl0 <= 0 || kl1 <= 0 || kl > std::max(kl0, kl1) || kl < std::min(kl0, kl1) || kl0 == kl1) continue;
    const double equal = b0 + (b1 - b0) * std::log(kl / kl0) / std::log(kl1 / kl0), d = bits - single_bits;
    KlExchange found{.equal_bits = equal, .gain_bits = equal - single_bits, .eta = std::nullopt};
    if (std::abs(d) >= kNoExtra) found.eta = found.gain_bits / d;
    return found;
  }
  return std::nullopt;
}

}  // namespace experiments
