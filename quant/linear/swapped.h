// Linears that stand in for others for a while: to record inputs, or to try weights out.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "core/nn/slot.h"

namespace quant {

// Gives every slot back what it held, also after an exception; one that shares what another holds shares it again.
class Swapped {
 public:
  Swapped() = default;
  ~Swapped();
  Swapped(const Swapped&) = delete;
  Swapped& operator=(const Swapped&) = delete;

  void put(core::Slot& slot, std::shared_ptr<core::Linear> linear);

 private:
  std::vector<std::pair<core::Slot*, std::shared_ptr<core::Linear>>> kept_;  // null: it held none of its own
};

}  // namespace quant
