// Orthogonal Hadamard matrices for widths n = 2^a · K: a Kronecker product of a known matrix of order K, 1 or a
// multiple of 4, and of a power of two, whose product is a fast Walsh-Hadamard transform: n · (K + 16 + a − 4)
// additions and multiply-accumulates in all. Matrices of order q + 1 (q ≡ 3 mod 4) and 2 (q + 1) (q ≡ 1 mod 4) for
// primes q are Paley's (1933): among them 12, 20, 28, 36.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace core {

class Hadamard {
 public:
  // The largest block that divides `width` and has a matrix here is used, block by block along the width.
  explicit Hadamard(int64_t width);

  int64_t width() const { return width_; }
  int64_t block() const { return block_; }  // width(): the matrix mixes everything
  int64_t macs() const;                     // of one product

  // x: [..., width], any float dtype -> x Hᵀ and x H, of the same shape. H Hᵀ = 1. Differentiable.
  at::Tensor multiply(const at::Tensor& x) const { return applied(x, false); }
  at::Tensor multiply_transposed(const at::Tensor& x) const { return applied(x, true); }

 private:
  at::Tensor applied(const at::Tensor& x, bool transposed) const;
  at::Tensor applied_reference(const at::Tensor& x, bool transposed) const;  // in tensor operations
  at::Tensor applied_fused(const at::Tensor& x, bool transposed) const;      // a row at a time, in the nearest cache

  int64_t width_, block_;
  // Their Kronecker product is a block: the known matrix, if any, those of powers of two that butterflies do, a last
  // one.
  std::vector<at::Tensor> factors_;     // [k, k] float32 each
  std::vector<at::Tensor> transposes_;  // of the factors
  int64_t base_;                        // K
  int64_t butterflies_ = 1;             // product of the orders that butterflies do
};

}  // namespace core
