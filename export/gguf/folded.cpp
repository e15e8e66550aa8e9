#include "export/gguf/folded.h"

#include <ATen/ATen.h>

#include "quant/grids/affine.h"
#include "quant/linear/quantized_linear.h"

namespace exports {

namespace {

// Parameters of a grid that are proportional to its levels, and stored as floats.
bool carries_scale(const quant::Parameter& parameter) {
  return parameter.kind == core::Kind::scale || parameter.kind == core::Kind::minimum;
}

at::Tensor scaled_bias(const core::Linear& linear, double factor) {
  return linear.bias().defined() ? linear.bias() * factor : at::Tensor();
}

}  // namespace

std::shared_ptr<core::Linear> Folding::folded(std::shared_ptr<core::Linear> linear) {
  if (factor_ == 1) return linear;
  const at::Tensor wanted = linear->weight().to(at::kFloat) * factor_;
  const auto* quantized = dynamic_cast<const quant::QuantizedLinear*>(linear.get());
  const bool is_grid = quantized != nullptr && quantized->rotation() == nullptr &&
                       dynamic_cast<const quant::AffineGrid*>(&quantized->format()) != nullptr;
  constexpr int64_t kBiasBits = 32;
  if (!is_grid) return std::make_shared<core::DenseLinear>(wanted, scaled_bias(*linear, factor_), kBiasBits);
  quant::Parameters parameters = quantized->parameters();
  for (quant::Parameter& p : parameters) {
    if (carries_scale(p)) p.tensor = (p.tensor * factor_).to(p.stored_dtype).to(at::kFloat);
  }
  auto out =
      std::make_shared<quant::QuantizedLinear>(quantized->shared_format(), quantized->codes(), std::move(parameters),
                                               scaled_bias(*linear, factor_), kBiasBits, at::kFloat);
  difference_ += (out->weight() - wanted).square().sum().item<double>();
  all_ += wanted.square().sum().item<double>();
  return out;
}

}  // namespace exports
