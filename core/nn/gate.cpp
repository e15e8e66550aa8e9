#include "core/nn/gate.h"

#include <ATen/ATen.h>

namespace core {

Gate::Gate(std::string name) : name_(std::move(name)) {
  value_ = register_parameter("value", at::Tensor(), /*requires_grad=*/false);
}

at::Tensor Gate::forward(const at::Tensor& branch) const {
  return value_.defined() ? branch * value_.to(branch.options()) : branch;
}

void Gate::put(double value) { put(at::full({1}, value, at::kFloat)); }

void Gate::put(at::Tensor value) { parameters_["value"] = value_ = std::move(value); }

void Gate::load(const Weights& weights) {
  if (weights.has(name_)) put(weights.read(name_, {1}).tensor.to(at::kFloat).clone());  // training writes to it
}

std::vector<State> Gate::state() const {
  if (!value_.defined()) return {};
  return {{name_, value_, Kind::gate}};
}

Cost Gate::cost() const {
  if (!value_.defined()) return {};
  constexpr int64_t kBits = 32;
  return {.parameter_bits = kBits, .bytes_read = kBits / 8};
}

}  // namespace core
