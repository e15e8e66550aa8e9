// Linear algebra that needs more than float32. The only place of float64 tensors: they live on the CPU, because not
// every device has them, and never leave this file.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <vector>

namespace core {

double sum_of_squares(const at::Tensor& x);  // of a float tensor of any shape, on any device

// The upper triangular U [I, I] with (P H Pᵀ + diag(added))⁻¹ = Uᵀ U, which is what GPTQ walks along. h: [I, I]
// symmetric float32; order: row i of P H Pᵀ is row order[i] of H; added: [I], in the order of the rows of P H Pᵀ.
// Computed in double, returned in float32 on h's device; none when the matrix is not positive definite. Memory beside h
// and U: one matrix in double.
std::optional<at::Tensor> inverse_factor(const at::Tensor& h, const std::vector<int64_t>& order,
                                         const std::vector<double>& added);

}  // namespace core
