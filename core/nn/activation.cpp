#include "core/nn/activation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <bit>

#include "core/nn/fused.h"

namespace core {

namespace {

// exp(x) to about 2 units in the last place, for loops that a compiler turns into vectors: x = n ln 2 + r with |r| ≤ ln 2 / 2,
// exp(r) by its Taylor polynomial of degree 7 (next term below 6e-9), 2^n through the exponent bits. Clamped to ±87; NaN stays NaN.
inline float exp_for_loops(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 87.0f ? 87.0f : x;
  constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, which then lies in the low bits
  const float shifted = x * 1.44269504f + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts, the first exact in few bits
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  const auto exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound) + 127;
  return p * std::bit_cast<float>(exponent << 23);
}

REFRAIN_SIMD void silu_product_loop(const float* gate, const float* up, float* y, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) y[i] = gate[i] / (1.0f + exp_for_loops(-gate[i])) * up[i];
}

at::Tensor silu_product_fused(const at::Tensor& gate, const at::Tensor& up) {
  at::Tensor y = at::empty_like(gate);
  const auto* g = gate.const_data_ptr<float>();
  const auto* u = up.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, gate.numel(), kGrain, [&](int64_t begin, int64_t end) {
    silu_product_loop(g + begin, u + begin, to + begin, end - begin);
  });
  return y;
}

}  // namespace

at::Tensor silu_product_reference(const at::Tensor& gate, const at::Tensor& up) { return at::silu(gate) * up; }

at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up) {
  TORCH_CHECK(gate.sizes() == up.sizes(), "silu_product: ", gate.sizes(), " by ", up.sizes());
  return can_fuse({gate, up}) ? silu_product_fused(gate, up) : silu_product_reference(gate, up);
}

}  // namespace core
