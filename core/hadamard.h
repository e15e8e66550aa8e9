// Orthogonal Hadamard matrices for widths n = 2^a · K: a Kronecker product of a known matrix of order K, 1 or a
// multiple of 4, and of powers of two, so that a product costs n · (sum of the factors' orders) multiply-accumulates.
// Matrices of order q + 1 (q ≡ 3 mod 4) and 2 (q + 1) (q ≡ 1 mod 4) for primes q are Paley's (1933): among them 12, 20,
// 28, 36.
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
  std::vector<at::Tensor> factors_;     // [k, k] float32 each, their Kronecker product is a block
  std::vector<at::Tensor> transposes_;  // of the factors
};

}  // namespace core
