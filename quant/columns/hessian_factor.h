// What methods that spread errors by the Hessian walk along: U upper triangular with (H + damping)⁻¹ = Uᵀ U, and what
// to do where there is none.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "quant/grids/statistics.h"

namespace quant {

struct HessianFactor {
  at::Tensor h = {};                // whose it is
  std::vector<int64_t> order = {};  // [I] order[j]: the column that is visited as the j-th
  at::Tensor u = {};                // [I, I] float32 on the CPU; undefined: there is none, for the reason below
  std::string reason = {};
  std::string note = {};  // what is worth knowing beside the result
};

// The columns' own order: 0, 1, …
std::vector<int64_t> natural_order(int64_t columns);

// Why H cannot be used at all; empty: it can be tried.
std::string unusable(const Statistics& x);

// Adds damp · mean(diag H) to the diagonal, times ten as long as the sum is not positive definite. A column that no
// input reached (H_jj = 0) is independent of the others.
HessianFactor factorized(const Statistics& x, std::vector<int64_t> order, double damp);

}  // namespace quant
