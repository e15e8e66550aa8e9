#include "core/nn/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>

#include "core/nn/fused.h"
#include "core/nn/rope_types.h"

namespace core {

namespace {

// x: `count` heads of one token, [count, 2 · half]; cos, sin: [half] of its position.
REFRAIN_SIMD void rotate_heads(float* x, const float* cos, const float* sin, int64_t count, int64_t half) {
  for (int64_t head = 0; head < count; ++head, x += 2 * half) {
    float* second = x + half;
#pragma omp simd
    for (int64_t i = 0; i < half; ++i) {
      const float a = x[i], b = second[i];
      x[i] = a * cos[i] - b * sin[i];
      second[i] = b * cos[i] + a * sin[i];
    }
  }
}

}  // namespace

Rotary Rotary::from_config(const JsonObject& config, int64_t head_width) {
  Rotary rotary;
  Frequencies frequencies = rope_frequencies(config, head_width);
  rotary.inverse_frequency_ = std::move(frequencies.inverse);
  rotary.attention_scale_ = frequencies.attention_scale;
  return rotary;
}

void Rotary::grow(int64_t positions, at::Device device) const {
  if (cos_.defined() && cos_.size(0) >= positions && cos_.device() == device) return;
  at::NoGradGuard no_gradient;
  const int64_t held = cos_.defined() ? cos_.size(0) : 0;
  const at::Tensor position = at::arange(std::max({positions, 2 * held, int64_t{64}}), at::kFloat);
  const at::Tensor angle = at::outer(position, inverse_frequency_);  // [T, C/2], radians
  cos_ = (angle.cos() * attention_scale_).to(device);
  sin_ = (angle.sin() * attention_scale_).to(device);
}

at::Tensor Rotary::apply_reference(const at::Tensor& x, int64_t position) const {
  grow(position + x.size(1), x.device());
  const auto wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor cos = cos_.narrow(0, position, x.size(1)).unsqueeze(1).to(wide);  // [T, 1, C/2]
  const at::Tensor sin = sin_.narrow(0, position, x.size(1)).unsqueeze(1).to(wide);
  const std::vector<at::Tensor> halves = x.to(wide).chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1).to(x.scalar_type());
}

at::Tensor Rotary::apply(at::Tensor x, int64_t position) const {
  TORCH_CHECK(x.dim() == 4 && x.size(3) == 2 * inverse_frequency_.numel(), "Rotary::apply: ", x.sizes());
  if (!can_fuse({x})) return apply_reference(x, position);
  grow(position + x.size(1), x.device());
  const int64_t tokens = x.size(1), heads = x.size(2), half = x.size(3) / 2;
  auto* data = x.mutable_data_ptr<float>();
  const auto* cos = cos_.const_data_ptr<float>() + position * half;
  const auto* sin = sin_.const_data_ptr<float>() + position * half;
  at::parallel_for(0, x.size(0) * tokens, 1 + kGrain / (2 * heads * half), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t angle = row % tokens * half;
      rotate_heads(data + row * 2 * heads * half, cos + angle, sin + angle, heads, half);
    }
  });
  return x;
}

}  // namespace core
