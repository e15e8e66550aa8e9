// A linear in full precision (weight.bits: 16) whose inputs are quantized.
#pragma once

#include <memory>

#include "core/nn/linear.h"
#include "quant/grids/activation.h"

namespace quant {

class InputQuantizedLinear : public core::Linear {
 public:
  InputQuantizedLinear(std::shared_ptr<core::Linear> inner, std::shared_ptr<const InputQuantizer> input);

  at::Tensor forward(const at::Tensor& x) override { return inner_->forward(input_->apply(x)); }
  at::Tensor weight() const override { return inner_->weight(); }
  at::Tensor bias() const override { return inner_->bias(); }
  std::vector<core::State> state() const override;  // of the linear, then the parameters of its inputs
  core::Cost cost() const override;

  const std::shared_ptr<core::Linear>& inner() const { return inner_; }
  const InputQuantizer& input() const { return *input_; }

 private:
  std::shared_ptr<core::Linear> inner_;
  std::shared_ptr<const InputQuantizer> input_;
};

}  // namespace quant
