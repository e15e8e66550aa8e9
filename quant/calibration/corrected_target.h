// What is coded in place of a weight so that the quantized model makes up for the errors of its inputs. Where the
// full-precision model gives a linear x_fp and the quantized one x, the weight T that minimises
//   E‖W x_fp − T x‖² + λ ‖T − W‖²   is   T = W + W E[(x_fp − x) xᵀ] (H + λ1)⁻¹  with H = E[x xᵀ].
// Methods then code T as they would code W, on inputs x. Relatives: GPTAQ (Li et al. 2025, arXiv 2504.02692), which
// puts the same term into every column's step of GPTQ, and Qronos (Zhang et al. 2025, arXiv 2505.11695), which solves
// for all later columns again after each one. Here any method and any format codes the solution itself.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>

#include "quant/grids/statistics.h"

namespace quant {

struct Correction {
  double share = 1;    // factor on T − W
  double damp = 0.05;  // λ over the mean of the diagonal of H
};

// T, [O, I] float32. w: [O, I] float32; x: with Hessian and `cross`. None where H + λ1 is not positive definite.
std::optional<at::Tensor> corrected(const at::Tensor& w, const Statistics& x, const Correction& correction);

}  // namespace quant
