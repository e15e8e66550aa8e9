#include "core/nn/activation.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "core/nn/exp.h"
#include "core/nn/fused.h"

namespace core {

namespace {

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
