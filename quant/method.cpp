#include "quant/method.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace quant {

std::vector<Encoded> LinearMethod::quantize(core::BlockContext&, const std::vector<Target>& targets) const {
  std::vector<Encoded> encoded;
  for (const Target& target : targets) {
    const at::Tensor w = target.slot->linear().weight().to(at::kFloat);
    try {
      encoded.push_back(quantize(w, *target.decoder, {}));
    } catch (const core::UserError& error) {
      core::fail("{}: {}", target.slot->path(), error.what());
    }
  }
  return encoded;
}

}  // namespace quant
