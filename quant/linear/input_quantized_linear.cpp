#include "quant/linear/input_quantized_linear.h"

namespace quant {

InputQuantizedLinear::InputQuantizedLinear(std::shared_ptr<core::Linear> inner,
                                           std::shared_ptr<const InputQuantizer> input)
    : Linear(inner->out_features(), inner->in_features()), input_(std::move(input)) {
  inner_ = register_module("inner", std::move(inner));
  for (const Parameter& p : input_->parameters()) register_parameter(p.name, p.tensor, /*requires_grad=*/false);
}

std::vector<core::State> InputQuantizedLinear::state() const {
  std::vector<core::State> all = inner_->state();
  for (const Parameter& p : input_->parameters()) all.push_back({p.name, p.tensor, p.kind});
  return all;
}

core::Cost InputQuantizedLinear::cost() const {
  core::Cost cost = inner_->cost();
  const int64_t bits = parameter_bits(input_->parameters());
  cost.parameter_bits += bits;
  cost.bytes_read += bits / 8;
  return cost;
}

}  // namespace quant
