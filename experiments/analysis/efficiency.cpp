#include "experiments/analysis/efficiency.h"

#include <cmath>

#include "experiments/analysis/sensitivity.h"

namespace experiments {

std::optional<double> Efficiency::gain_bits() const {
  if (error <= 0 || single_error <= 0) return std::nullopt;
  return 0.5 * std::log2(single_error / error);
}

std::optional<double> Efficiency::eta() const {
  constexpr double kNoExtra = 0.005;  // bits per weight
  const std::optional<double> gain = gain_bits();
  if (!gain || std::abs(extra_bits) < kNoExtra) return std::nullopt;
  return *gain / extra_bits;
}

std::optional<Efficiency> efficiency(const Replaced& replaced, const std::vector<quant::ModuleReport>& reports,
                                     const replication::OutputErrors& single) {
  if (replaced.paths.empty()) return std::nullopt;
  const replication::OutputErrors own = errors_of(reports);
  replication::OutputError of_run, of_single;
  for (const std::string& path : replaced.paths) {
    const auto mine = own.find(path), reference = single.find(path);
    if (mine == own.end() || reference == single.end()) return std::nullopt;
    of_run.error += mine->second.error;
    of_run.energy += mine->second.energy;
    of_single.error += reference->second.error;
    of_single.energy += reference->second.energy;
  }
  return Efficiency{.linears = static_cast<int64_t>(replaced.paths.size()),
                    .extra_bits = replaced.extra_per_weight(),
                    .error = of_run.relative(),
                    .single_error = of_single.relative()};
}

}  // namespace experiments
