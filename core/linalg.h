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

// a b (h + added · 1)⁻¹, computed in double, returned in float32 on a's device; none when h + added · 1 is not positive
// definite. a: [O, I], b: [I, I], h: [I, I] symmetric, all float32. Memory beside them: two matrices [I, I] in double.
std::optional<at::Tensor> product_over(const at::Tensor& a, const at::Tensor& b, const at::Tensor& h, double added);

// Solutions s of (A + ridge · mean(diag A) · 1) s = b for many small A, [n, G]. a: [n, G, G] symmetric and positive
// semidefinite, b: [n, G], float32. What A says nothing about is 0. Computed in double, returned in float32.
at::Tensor solved_each(const at::Tensor& a, const at::Tensor& b, double ridge);

}  // namespace core
