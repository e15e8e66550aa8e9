// What replication buys for the bits that it adds: the exchange rate that says whether they were well spent. The
// reference is the single replica, the same run without its strategy.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/inputs/assignments.h"
#include "quant/stage/quantize.h"

namespace experiments {

// Over the linears that replication replaces.
struct Efficiency {
  int64_t linears = 0;
  double extra_bits = 0;    // d, stored bits per weight beyond the single replica's
  double error = 0;         // eps = Σ tr(ΔHΔᵀ) / Σ tr(WHWᵀ)
  double single_error = 0;  // the same of the single replica

  // ½ log2(eps_single / eps): bits per weight that would lower the error as much at the rate of 6 dB a bit. None when
  // an error is 0.
  std::optional<double> gain_bits() const;
  // gain_bits / d: 1 is what more bits buy at that rate. None for |d| < 0.005.
  std::optional<double> eta() const;
};

// single: errors of the single replica (experiments/analysis/sensitivity.h). None when nothing is replaced, or the
// errors of a linear are not known.
std::optional<Efficiency> efficiency(const Replaced& replaced, const std::vector<quant::ModuleReport>& reports,
                                     const replication::OutputErrors& single);

}  // namespace experiments
