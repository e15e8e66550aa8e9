#include "quant/method.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace quant {

Quantized named(const std::string& path, const std::function<Quantized()>& work) {
  try {
    return work();
  } catch (const core::UserError& error) {
    core::fail("{}: {}", path, error.what());
  }
}

Encoded Method::encoded(const core::Slot& slot, const WeightFormat&) const {
  TORCH_CHECK(false, slot.path(), ": this method brings no codes");
}

std::vector<Quantized> LinearMethod::quantize(core::BlockContext&, const std::vector<Target>& targets) const {
  std::vector<Quantized> all;
  for (const Target& target : targets) {
    const at::Tensor w = target.slot->linear().weight().to(at::kFloat);
    all.push_back(named(target.slot->path(), [&] { return Quantized{quantize(w, *target.format, target.inputs)}; }));
  }
  return all;
}

}  // namespace quant
