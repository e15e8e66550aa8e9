// SmoothQuant (Xiao, Lin, Seznec, Wu, Demouth and Han 2022, arXiv 2211.10438): outliers of the inputs move into the
// weights, so that both are easy to quantize. Per input column j, equation 4:
//   f_j = max |x_j|^α / max |w_j|^(1 − α)
// with the maximum over all linears that read the input. As in the paper only outputs of norms are smoothed.
#include <ATen/ATen.h>

#include "quant/transform.h"

namespace quant {

namespace {

struct SmoothQuant : Transform {
  double alpha = 0.5;

  std::string summary() const override { return "per column, outliers of a norm's outputs move into the weights"; }
  void keys(core::Keys& k) override {
    k.key("alpha", alpha, "share of the difficulty that moves: 0: none of the inputs' range; 1: all of it", {0, 1});
  }
  Needs needs(const InputGroup& group) const override { return {.absmax = group.producer.norm != nullptr}; }

  Factors factors(const InputGroup& group) const override {
    at::Tensor weights;  // [I]: max |w_j|
    for (const Consumer& consumer : group.consumers) {
      const at::Tensor largest = consumer.slot->linear().weight().to(at::kFloat).abs().amax(0);
      weights = weights.defined() ? at::maximum(weights, largest) : largest;
    }
    const at::Tensor x = group.inputs.absmax.clamp_min(kLeast), w = weights.clamp_min(kLeast);
    return {(at::pow(x, alpha) / at::pow(w, 1 - alpha)).clamp_min(kLeast)};
  }

  static constexpr double kLeast = 1e-5;  // of a factor, and of what it is made of
};

}  // namespace

core::Polymorphic<Transform> make_smoothquant_transform() { return SmoothQuant{}; }

}  // namespace quant
