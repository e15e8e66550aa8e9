// When a fused loop may stand in for tensor operations.
//
// Functions that are neither products with weights nor attention (norm, rotary positions, SwiGLU, Hadamard matrices)
// have two versions each: the definition in tensor operations, and one pass over memory in plain loops. The loops are
// used when nobody needs a gradient.
#pragma once

#include <ATen/ATen.h>

#include <initializer_list>

#include "core/simd.h"  // IWYU pragma: export

namespace core {

// Elements that one thread should at least work on, for loops that are bound by memory.
constexpr int64_t kGrain = 16384;

inline bool needs_gradient(const at::Tensor& x) { return at::GradMode::is_enabled() && x.requires_grad(); }

// Whether all tensors are contiguous float32 on the CPU and none needs a gradient.
inline bool can_fuse(std::initializer_list<at::Tensor> tensors) {
  for (const at::Tensor& x : tensors) {
    if (!x.is_cpu() || x.scalar_type() != at::kFloat || !x.is_contiguous() || needs_gradient(x)) return false;
  }
  return true;
}

}  // namespace core
