#include "core/hadamard.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/nn/fused.h"

namespace core {

namespace {

bool is_prime(int64_t n) {
  for (int64_t d = 2; d * d <= n; ++d) {
    if (n % d == 0) return false;
  }
  return n > 1;
}

// [q, q]: 1 where i - j is a square modulo q, -1 where it is none, 0 on the diagonal.
at::Tensor residues(int64_t q) {
  std::vector<float> character(static_cast<size_t>(q), -1.0f);
  character[0] = 0;
  for (int64_t i = 1; i < q; ++i) character[static_cast<size_t>(i * i % q)] = 1;
  const at::Tensor matrix = at::empty({q, q});
  for (int64_t i = 0; i < q; ++i) {
    for (int64_t j = 0; j < q; ++j)
      matrix.mutable_data_ptr<float>()[i * q + j] = character[static_cast<size_t>((i - j + q) % q)];
  }
  return matrix;
}

// [q + 1, q + 1]: the residues, bordered by ones above, by `left` at the left, and by 0 in the corner.
at::Tensor bordered(int64_t q, double left) {
  const at::Tensor matrix = at::zeros({q + 1, q + 1});
  matrix.slice(0, 1).slice(1, 1).copy_(residues(q));
  matrix.select(0, 0).slice(0, 1).fill_(1);
  matrix.select(1, 0).slice(0, 1).fill_(left);
  return matrix;
}

// Paley's first and second construction; undefined where neither has this order.
at::Tensor paley(int64_t order) {
  if (order % 4 != 0) return {};
  if (is_prime(order - 1) && (order - 1) % 4 == 3) return at::eye(order) + bordered(order - 1, -1);
  const int64_t q = order / 2 - 1;
  if (!is_prime(q) || q % 4 != 1) return {};
  const at::Tensor on_zero = at::tensor({1.f, -1.f, -1.f, -1.f}).reshape({2, 2}),
                   on_one = at::tensor({1.f, 1.f, 1.f, -1.f}).reshape({2, 2});
  return at::kron(at::eye(q + 1), on_zero) + at::kron(bordered(q, 1), on_one);
}

at::Tensor sylvester(int64_t order) {  // a power of two
  at::Tensor matrix = at::ones({1, 1});
  while (matrix.size(0) < order) matrix = at::kron(at::tensor({1.f, 1.f, 1.f, -1.f}).reshape({2, 2}), matrix);
  return matrix;
}

// A block that is 2^a times a known order: that order (1: none is needed), or 0.
int64_t base_of(int64_t block) {
  constexpr int64_t kLargestBase = 256;  // a larger one would cost more than it mixes
  int64_t odd = block;
  while (odd % 2 == 0) odd /= 2;
  if (odd == 1) return 1;
  for (int64_t order = 4 * odd; order <= std::min(block, kLargestBase); order *= 2) {
    if (paley(order).defined()) return order;
  }
  return 0;
}

int64_t largest_block(int64_t width) {
  for (int64_t parts = 1; parts <= width; ++parts) {
    if (width % parts == 0 && base_of(width / parts) > 0) return width / parts;
  }
  return 1;
}

}  // namespace

Hadamard::Hadamard(int64_t width) : width_(width), block_(largest_block(width)), base_(base_of(block_)) {
  constexpr int64_t kLast = 16;  // order of the last factor, a row of which fills the lanes
  constexpr int64_t kLargestFactor = 64;
  const auto add = [&](const at::Tensor& matrix) {
    factors_.push_back((matrix / std::sqrt(static_cast<double>(matrix.size(0)))).contiguous());
    transposes_.push_back(factors_.back().t().contiguous());
  };
  if (base_ > 1) add(paley(base_));
  const int64_t last = std::min(block_ / base_, kLast);
  butterflies_ = block_ / base_ / last;
  for (int64_t rest = butterflies_; rest > 1;) {
    const int64_t order = std::min(rest, kLargestFactor);
    add(sylvester(order));
    rest /= order;
  }
  if (last > 1) add(sylvester(last));
}

int64_t Hadamard::macs() const {
  if (block_ == 1) return 0;
  int64_t each = base_ > 1 ? base_ : 0;
  if (block_ > base_) each += block_ / base_ / butterflies_;
  for (int64_t order = 1; order < butterflies_; order *= 2) ++each;
  return width_ * each;
}

at::Tensor Hadamard::applied_reference(const at::Tensor& x, bool transposed) const {
  at::Tensor y = x;
  int64_t right = block_;  // elements of a block behind the axis of a factor
  for (const at::Tensor& factor : factors_) {
    const int64_t order = factor.size(0);
    right /= order;
    const at::Tensor own = factor.to(x.options()), matrix = transposed ? own.t() : own;
    y = right == 1 ? at::matmul(y.reshape({-1, order}), matrix.t()) : at::matmul(matrix, y.reshape({-1, order, right}));
  }
  return y.reshape(x.sizes());
}

namespace {

constexpr int64_t kLanes = 16;

// y[i] = Σ_j factors[j] x[j · step + i] for i < kLanes, or fewer.
template <bool kAll>
[[gnu::always_inline]] inline void add_up(const float* factors, const float* x, int64_t step, int64_t order,
                                          int64_t lanes, float* y) {
  float sum[kLanes] = {};
  const int64_t n = kAll ? kLanes : lanes;
  for (int64_t j = 0; j < order; ++j) {
    const float factor = factors[j];
#pragma omp simd
    for (int64_t i = 0; i < n; ++i) sum[i] += factor * x[j * step + i];
  }
#pragma omp simd
  for (int64_t i = 0; i < n; ++i) y[i] = sum[i];
}

[[gnu::always_inline]] inline void add_up(const float* factors, const float* x, int64_t step, int64_t order,
                                          int64_t lanes, float* y) {
  lanes >= kLanes ? add_up<true>(factors, x, step, order, kLanes, y) : add_up<false>(factors, x, step, order, lanes, y);
}

// One factor, matrix [order, order] and its transpose, along the axis of x [left, order, right] -> y of that shape.
REFRAIN_SIMD void multiply_axis(const float* matrix, const float* transpose, int64_t order, const float* x,
                                int64_t left, int64_t right, float* y) {
  for (int64_t l = 0; l < left; ++l, x += order * right, y += order * right) {
    if (right == 1) {  // the lanes are outputs
      for (int64_t i = 0; i < order; i += kLanes) add_up(x, transpose + i, order, order, order - i, y + i);
      continue;
    }
    for (int64_t i = 0; i < order; ++i) {
      for (int64_t r = 0; r < right; r += kLanes)
        add_up(matrix + i * order, x + r, right, order, right - r, y + i * right + r);
    }
  }
}

// Sylvester's matrix of `order` along the axis of x [left, order, right], in place.
REFRAIN_SIMD void fast_walsh_hadamard(float* x, int64_t left, int64_t order, int64_t right) {
  const float scale = 1 / std::sqrt(static_cast<float>(order));
  for (int64_t half = right; half < order * right; half *= 2) {
    for (int64_t first = 0; first < left * order * right; first += 2 * half) {
      float *a = x + first, *b = a + half;
#pragma omp simd
      for (int64_t i = 0; i < half; ++i) {
        const float sum = a[i] + b[i], difference = a[i] - b[i];
        a[i] = sum;
        b[i] = difference;
      }
    }
  }
#pragma omp simd
  for (int64_t i = 0; i < left * order * right; ++i) x[i] *= scale;
}

}  // namespace

at::Tensor Hadamard::applied_fused(const at::Tensor& x, bool transposed) const {
  at::Tensor y = at::empty_like(x);
  const auto* from = x.const_data_ptr<float>();
  auto* to = y.mutable_data_ptr<float>();
  at::parallel_for(0, x.numel() / width_, 1 + kGrain / std::max<int64_t>(1, macs()), [&](int64_t begin, int64_t end) {
    std::vector<float> now(width_), next(width_);
    const int64_t powers = block_ / base_, last = powers / butterflies_;
    const auto multiply = [&](size_t f, int64_t right) {
      const int64_t order = factors_[f].size(0);
      const auto *own = factors_[f].const_data_ptr<float>(), *other = transposes_[f].const_data_ptr<float>();
      multiply_axis(transposed ? other : own, transposed ? own : other, order, now.data(), width_ / (order * right),
                    right, next.data());
      now.swap(next);
    };
    for (int64_t row = begin; row < end; ++row) {
      std::copy_n(from + row * width_, width_, now.begin());
      if (base_ > 1) multiply(0, powers);
      if (butterflies_ > 1) fast_walsh_hadamard(now.data(), width_ / powers, butterflies_, last);
      if (last > 1) multiply(factors_.size() - 1, 1);
      std::copy_n(now.begin(), width_, to + row * width_);
    }
  });
  return y;
}

at::Tensor Hadamard::applied(const at::Tensor& x, bool transposed) const {
  return can_fuse({x}) ? applied_fused(x, transposed) : applied_reference(x, transposed);
}

}  // namespace core
