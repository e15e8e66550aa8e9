#include "quant/affine.h"

#include <ATen/ATen.h>

#include "core/error.h"

namespace quant {

namespace {

constexpr double kSmallestScale = 6.103515625e-05;  // 2^-14, the smallest normal float16

// Rounds to float16, the stored dtype, and keeps s ≥ the smallest normal number.
at::Tensor rounded_scale(const at::Tensor& scale) {
  return scale.to(at::kHalf).to(at::kFloat).clamp_min(kSmallestScale);
}

}  // namespace

int64_t AffineGrid::groups(int64_t in_features) const { return group_size_ > 0 ? in_features / group_size_ : 1; }

at::Tensor AffineGrid::grouped(const at::Tensor& matrix) const {
  if (group_size_ == 0) return matrix.reshape({1, 1, -1});
  return matrix.reshape({matrix.size(0), groups(matrix.size(1)), -1});
}

Parameters AffineGrid::fit(const at::Tensor& w, const Statistics&) const {
  const at::Tensor values = grouped(w);                  // [O, G, S]
  const at::Tensor lo = values.amin(-1).clamp_max(0.0);  // [O, G]
  const at::Tensor hi = values.amax(-1).clamp_min(0.0);
  const at::Tensor scale = rounded_scale((hi - lo) / top());
  core::require(
      at::isfinite(scale).all().item<bool>(),
      "a scale does not fit float16 (the largest weight is {:.3g}). Leave this module out with a rule: bits: 16.",
      at::maximum(hi, -lo).max().item<double>());
  const at::Tensor zero = at::round(-lo / scale).clamp(0.0, top());
  Parameters fitted = layout(w.size(0), w.size(1));
  fitted[0].tensor = scale;
  fitted[1].tensor = zero.to(at::kByte);
  return fitted;
}

Encoded AffineGrid::encode(const at::Tensor& w, Parameters parameters) const {
  const at::Tensor scale = parameters.at("scale").unsqueeze(-1);  // [O, G, 1]
  const at::Tensor zero = parameters.at("zero_point").to(at::kFloat).unsqueeze(-1);
  const at::Tensor codes = at::round(grouped(w) / scale + zero).clamp(0.0, top());
  return {codes.to(at::kByte).reshape(w.sizes()), std::move(parameters)};
}

at::Tensor AffineGrid::decode(const at::Tensor& codes, const Parameters& parameters) const {
  const at::Tensor scale = parameters.at("scale").unsqueeze(-1);
  const at::Tensor zero = parameters.at("zero_point").to(at::kFloat).unsqueeze(-1);
  return ((grouped(codes).to(at::kFloat) - zero) * scale).reshape(codes.sizes());
}

Parameters AffineGrid::layout(int64_t out_features, int64_t in_features) const {
  const int64_t rows = group_size_ == 0 ? 1 : out_features;
  const std::vector<int64_t> shape{rows, groups(in_features)};
  return {{"scale", {}, core::Kind::scale, 16, shape}, {"zero_point", {}, core::Kind::zero_codes, bits_, shape}};
}

}  // namespace quant
