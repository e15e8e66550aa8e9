// Controls at equal bits: the same method without replication, at the bits that the replica stores. Two neighbouring
// levels (group sizes, bit widths, ranks of a low-rank branch) are mixed over the linears, the higher one for those
// that quantization hurts most, so that together they store no more than the replica and at most 1 % less.
#pragma once

#include <string>
#include <vector>

#include "core/error.h"
#include "replication/config.h"

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

// One kind of control. Level 0 is the single replica; a higher level stores at least as much as a lower one.
class Control {
 public:
  virtual ~Control() = default;
  virtual int64_t lowest() const = 0;
  virtual int64_t highest() const = 0;
  virtual quant::Coding coding(const Mixed& linear, uint64_t seed, int64_t level) const = 0;
  virtual std::string describe(int64_t level) const = 0;  // "groups of a half": relative to the single replica
};

// config.control, with the levels that these linears allow. Error: NoControl.
std::unique_ptr<Control> make_control(const ReplicationConfig& config, const std::vector<Mixed>& linears);

// Level of each linear, in their order, for `target` bits in all. ranked: whether the sensitivities are known; if not,
// all that can be said without them is checked. elsewhere: bits of the replica that the control leaves as they are;
// they count where the two are compared. Error: NoControl.
std::vector<int64_t> mixed_levels(const ReplicationConfig& config, const Control& control,
                                  const std::vector<Mixed>& linears, int64_t target, uint64_t seed, bool ranked,
                                  int64_t elsewhere = 0);

}  // namespace replication
