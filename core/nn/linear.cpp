#include "core/nn/linear.h"

#include <ATen/ATen.h>

#include <cmath>

namespace core {

at::Tensor Linear::rows(const at::Tensor& index) const { return at::embedding(weight(), index); }

std::vector<at::Tensor> Linear::forward_each(const std::vector<Linear*>& all, const at::Tensor& x) {
  std::vector<at::Tensor> outputs;
  for (Linear* linear : all) outputs.push_back(linear->forward(x));
  return outputs;
}

at::Tensor Linear::forward_beside(const std::vector<Linear*>& all, const at::Tensor& x) {
  std::vector<at::Tensor> outputs;
  for (Linear* linear : all) outputs.push_back(linear->forward(x[x.size(0) == 1 ? 0 : std::ssize(outputs)]));
  return at::stack(outputs);
}

DenseLinear::DenseLinear(at::Tensor weight, at::Tensor bias, double stored_bits)
    : Linear(weight.size(0), weight.size(1)), stored_bits_(stored_bits) {
  weight_ = register_parameter("weight", std::move(weight), /*requires_grad=*/false);
  if (bias.defined()) bias_ = register_parameter("bias", std::move(bias), /*requires_grad=*/false);
}

at::Tensor DenseLinear::forward(const at::Tensor& x) { return at::linear(x, weight_, bias_); }

std::vector<State> DenseLinear::state() const {
  std::vector<State> all{{"weight", weight_, Kind::weight}};
  if (bias_.defined()) all.push_back({"bias", bias_, Kind::bias});
  return all;
}

Cost DenseLinear::cost() const {
  const int64_t values = weight_.numel() + (bias_.defined() ? bias_.numel() : 0);
  const int64_t bits = std::llround(static_cast<double>(values) * stored_bits_);
  return {.weights = weight_.numel(), .dense_bits = bits, .macs = weight_.numel(), .bytes_read = bits / 8};
}

RecordingLinear::RecordingLinear(std::shared_ptr<Linear> inner, Tap tap)
    : Linear(inner->out_features(), inner->in_features()), tap_(std::move(tap)) {
  inner_ = register_module("inner", std::move(inner));
}

at::Tensor RecordingLinear::forward(const at::Tensor& x) {
  tap_(x);
  return inner_->forward(x);
}

}  // namespace core
