#include "replication/own_parameters.h"

#include <ATen/ATen.h>

#include "quant/draws.h"
#include "quant/quantized_linear.h"

namespace replication {

namespace {

at::Tensor jittered(const quant::Parameter& scale, double jitter, const quant::Place& place) {
  const at::Tensor flat = scale.tensor.reshape({scale.tensor.size(0), -1});
  const at::Tensor draw = quant::normal_draw(place, "jitter of " + scale.name, 0, flat.size(0), flat.size(1));
  const at::Tensor factor = (1 + jitter * draw).to(scale.tensor.device()).reshape(scale.tensor.sizes());
  return (scale.tensor * factor).to(scale.stored_dtype).to(at::kFloat);
}

}  // namespace

void give_own_parameters(core::Block& block, core::Block& replica, double jitter, uint64_t seed) {
  const std::vector<core::Slot*> from = block.slots(), to = replica.slots();
  for (size_t i = 0; i < from.size(); ++i) {
    const auto* original = dynamic_cast<const quant::QuantizedLinear*>(&from[i]->linear());
    if (original == nullptr) continue;
    quant::Parameters parameters = original->parameters();
    for (quant::Parameter& p : parameters) {
      const bool scales = p.kind == core::Kind::scale || p.kind == core::Kind::row_scale;
      p.tensor = scales && jitter > 0 ? jittered(p, jitter, {to[i]->path(), seed}) : p.tensor.clone();
    }
    auto own =
        std::make_shared<quant::QuantizedLinear>(original->shared_decoder(), original->codes(), std::move(parameters),
                                                 original->bias(), original->bias_bits(), original->compute_dtype());
    own->share_codes(original->codes_of().empty() ? from[i]->path() : original->codes_of());
    own->quantize_input(original->input_pointer());
    to[i]->put(std::move(own));
  }
}

void give_own_norms(core::Block& replica) {
  for (const auto& module : replica.modules(/*include_self=*/false)) {
    if (auto* norm = dynamic_cast<core::RmsNorm*>(module.get())) norm->own();
  }
}

}  // namespace replication
