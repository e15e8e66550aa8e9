#include "quant/linear/swapped.h"

namespace quant {

void Swapped::put(core::Slot& slot, std::shared_ptr<core::Linear> linear) {
  kept_.emplace_back(&slot, slot.filled() ? slot.pointer() : nullptr);
  slot.put(std::move(linear));
}

Swapped::~Swapped() {
  for (auto it = kept_.rbegin(); it != kept_.rend(); ++it) {
    const auto& [slot, before] = *it;
    before != nullptr ? slot->put(before) : slot->unload();
  }
}

}  // namespace quant
