// What a control at equal bits gives the linears that it mixes: levels of group sizes, bit widths or ranks of a
// low-rank branch. Two neighbouring ones are mixed over the linears (replication/mix.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "replication/strategy.h"

namespace replication {

// A control that cannot be built at these bits, and why. It is written down as a result, not taken for a mistake.
class NoControl : public core::UserError {
  using UserError::UserError;
};

// A linear that the mix covers.
struct Mixed {
  const core::Slot* slot;
  quant::WeightConfig weight;  // of the single replica
  double sensitivity = 0;
};

// Level 0 is the single replica; a higher level stores at least as much as a lower one.
class Levels {
 public:
  virtual ~Levels() = default;
  virtual int64_t lowest() const = 0;
  virtual int64_t highest() const = 0;
  virtual quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const = 0;
  virtual std::string describe(int64_t level) const = 0;  // "groups 2 times smaller": relative to the single replica
};

// Makes the levels that these linears allow. strategies: with the options of the run. Error: NoControl.
using MakeLevels = std::unique_ptr<Levels> (*)(const std::string& control, const Strategies& strategies,
                                               const std::vector<Mixed>& linears);

std::unique_ptr<Levels> group_levels(const std::string& control, const Strategies& strategies,
                                     const std::vector<Mixed>& linears);
std::unique_ptr<Levels> bit_levels(const std::string& control, const Strategies& strategies,
                                   const std::vector<Mixed>& linears);
std::unique_ptr<Levels> rank_levels(const std::string& control, const Strategies& strategies,
                                    const std::vector<Mixed>& linears);

}  // namespace replication
