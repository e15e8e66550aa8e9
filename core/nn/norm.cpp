#include "core/nn/norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "core/nn/fused.h"

namespace core {

namespace {

REFRAIN_SIMD void normalize_rows(const float* x, const float* weight, float* y, int64_t rows, int64_t width,
                                 float eps) {
  for (int64_t row = 0; row < rows; ++row, x += width, y += width) {
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += x[i] * x[i];
    const float factor = 1.0f / std::sqrt(sum / static_cast<float>(width) + eps);
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) y[i] = x[i] * factor * weight[i];
  }
}

at::Tensor rms_norm_fused(const at::Tensor& x, const at::Tensor& weight, double eps) {
  at::Tensor y = at::empty_like(x);
  const int64_t width = weight.numel();
  const auto* from = x.const_data_ptr<float>();
  const auto* factors = weight.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel() / width, 1 + kGrain / width, [&](int64_t begin, int64_t end) {
    normalize_rows(from + begin * width, factors, to + begin * width, end - begin, width, static_cast<float>(eps));
  });
  return y;
}

}  // namespace

at::Tensor rms_norm_reference(const at::Tensor& x, const at::Tensor& weight, double eps) {
  const at::Tensor wide = x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
  const at::Tensor mean_square = wide.square().mean(-1, /*keepdim=*/true);
  return (wide * at::rsqrt(mean_square + eps)).to(x.scalar_type()) * weight;
}

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight, double eps) {
  TORCH_CHECK(weight.dim() == 1 && x.size(-1) == weight.numel(), "rms_norm: ", x.sizes(), " by ", weight.sizes());
  return can_fuse({x, weight}) ? rms_norm_fused(x, weight, eps) : rms_norm_reference(x, weight, eps);
}

RmsNorm::RmsNorm(std::string path, int64_t width, double eps) : path_(std::move(path)), width_(width), eps_(eps) {
  weight_ = register_parameter("weight", at::Tensor(), /*requires_grad=*/false);
}

const at::Tensor& RmsNorm::weight() const {
  return !weight_.defined() && original_ != nullptr ? original_->weight() : weight_;
}

void RmsNorm::check(const Weights& weights) const {
  if (original_ == nullptr) weights.check(path_ + ".weight", {width_});
}

void RmsNorm::load(const Weights& weights) {
  if (original_ != nullptr && !weights.has(path_ + ".weight")) return;
  LoadedTensor loaded = weights.read(path_ + ".weight", {width_});
  stored_bits_ = loaded.stored_bits;
  put(loaded.tensor.clone());
}

void RmsNorm::own() {
  if (weight_.defined() || original_ == nullptr) return;
  stored_bits_ = original_->stored_bits_;
  put(original_->weight().clone());
}

void RmsNorm::divide(const at::Tensor& by) {
  TORCH_CHECK(by.dim() == 1 && by.numel() == width_, path_, ": ", width_, " channels by ", by.sizes());
  put((weight_.to(at::kFloat) / by).to(weight_.scalar_type()));
  stored_bits_ = 8.0 * static_cast<double>(weight_.element_size());
}

void RmsNorm::unload() { put({}); }

void RmsNorm::put(at::Tensor weight) { parameters_["weight"] = weight_ = std::move(weight); }

std::vector<State> RmsNorm::state() const {
  if (!weight_.defined()) return {};
  return {{path_ + ".weight", weight_, Kind::norm}};
}

void RmsNorm::share(const Loadable& original) {
  original_ = dynamic_cast<const RmsNorm*>(&original);
  TORCH_CHECK(original_ != nullptr && original_->width_ == width_, path_, ": shares a norm of another width");
}

Cost RmsNorm::cost() const {
  if (original_ != nullptr && !weight_.defined()) return original_->cost().running();
  const int64_t bits = std::llround(static_cast<double>(width_) * stored_bits_);
  if (original_ != nullptr) return {.parameter_bits = bits, .bytes_read = bits / 8};
  return {.weights = width_, .dense_bits = bits, .bytes_read = bits / 8};
}

}  // namespace core
