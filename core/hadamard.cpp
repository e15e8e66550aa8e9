#include "core/hadamard.h"

#include <ATen/ATen.h>

#include <cmath>

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
  constexpr int64_t kMost = 256;  // a larger one would cost more than it mixes
  int64_t odd = block;
  while (odd % 2 == 0) odd /= 2;
  if (odd == 1) return 1;
  for (int64_t order = 4 * odd; order <= std::min(block, kMost); order *= 2) {
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

Hadamard::Hadamard(int64_t width) : width_(width), block_(largest_block(width)) {
  constexpr int64_t kMost = 64;  // order of a factor: small ones are cheap, few are fast
  const int64_t base = base_of(block_);
  const auto add = [&](const at::Tensor& matrix) {
    factors_.push_back(matrix / std::sqrt(static_cast<double>(matrix.size(0))));
  };
  if (base > 1) add(paley(base));
  for (int64_t rest = block_ / base; rest > 1;) {
    const int64_t order = std::min(rest, kMost);
    add(sylvester(order));
    rest /= order;
  }
}

int64_t Hadamard::macs() const {
  int64_t orders = 0;
  for (const at::Tensor& factor : factors_) orders += factor.size(0);
  return width_ * orders;
}

at::Tensor Hadamard::applied(const at::Tensor& x, bool transposed) const {
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

}  // namespace core
