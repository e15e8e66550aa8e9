// Root mean square normalization (Zhang and Sennrich 2019, arXiv 1910.07467).
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "core/nn/weights.h"

namespace core {

// y = x / sqrt(mean(x²) + eps) ∘ weight over the last axis. The mean is taken in float32 whatever the dtype of x.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps);  // [..., N], [N] -> [..., N]

// The same in tensor operations: the definition, the gradient, and the path of other devices and dtypes.
at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps);

class RmsNorm : public torch::nn::Module, public Loadable {
 public:
  RmsNorm(std::string path, int64_t width, double eps);  // path: e.g. "model.layers.3.input_layernorm"

  at::Tensor forward(const at::Tensor& x) { return rms_norm(x, weight(), eps_); }
  const at::Tensor& weight() const;  // [N], its own, or that of the norm that it shares
  const std::string& path() const { return path_; }
  void own();                         // a copy of the weight that it shares becomes its own
  void divide(const at::Tensor& by);  // [N]: the weight becomes weight / by, in the compute dtype

  void check(const Weights& weights) const override;
  void load(const Weights& weights) override;  // always a copy: folding may write to it
  void unload() override;
  std::vector<State> state() const override;
  Cost cost() const override;
  void share(const Loadable& original) override;

 private:
  void put(at::Tensor weight);

  std::string path_;
  int64_t width_;
  double eps_;
  at::Tensor weight_;  // [N]
  double stored_bits_ = 0;
  const RmsNorm* original_ = nullptr;
};

}  // namespace core
