// The factor of an inverse, multiplied out again in double.
#include "core/linalg.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

namespace core {
namespace {

std::vector<int64_t> backwards(int64_t n) {
  std::vector<int64_t> order(n);
  std::iota(order.rbegin(), order.rend(), 0);
  return order;
}

at::Tensor random_hessian(int64_t n, int64_t tokens) {
  at::manual_seed(5);
  const at::Tensor x = at::randn({tokens, n});
  return at::mm(x.t(), x) / tokens;
}

// max |Uᵀ U (P H Pᵀ + diag(added)) − 1|, in plain loops.
double deviation(const at::Tensor& h, const std::vector<int64_t>& order, const std::vector<double>& added,
                 const at::Tensor& u) {
  const int64_t n = h.size(0);
  const at::Tensor dense = h.contiguous(), factor = u.contiguous();
  const float* H = dense.const_data_ptr<float>();
  const float* U = factor.const_data_ptr<float>();
  std::vector<double> half(n * n);  // U (P H Pᵀ + diag(added))
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t k = i; k < n; ++k) {
      for (int64_t j = 0; j < n; ++j)
        half[i * n + j] += double{U[i * n + k]} * (double{H[order[k] * n + order[j]]} + (k == j ? added[j] : 0.0));
    }
  }
  double worst = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) {
      double product = 0;
      for (int64_t k = 0; k <= i; ++k) product += double{U[k * n + i]} * half[k * n + j];
      worst = std::max(worst, std::abs(product - (i == j ? 1.0 : 0.0)));
    }
  }
  return worst;
}

TEST(InverseFactor, TimesItsTransposeIsTheInverse) {
  for (const int64_t n : {1, 3, 64, 300}) {  // 300: more than one panel
    SCOPED_TRACE(n);
    const at::Tensor h = random_hessian(n, 4 * n);
    const std::vector<double> added(n, 0.01);
    const auto u = inverse_factor(h, backwards(n), added);
    ASSERT_TRUE(u.has_value());
    EXPECT_TRUE(at::equal(*u, u->triu()));
    EXPECT_LT(deviation(h, backwards(n), added, *u), 1e-4);  // U is rounded to float32; the condition is below 100
  }
}

TEST(InverseFactor, OfTheIdentityIsTheIdentityExactly) {
  const auto u = inverse_factor(at::eye(300), backwards(300), std::vector<double>(300, 0.0));
  ASSERT_TRUE(u.has_value());
  EXPECT_TRUE(at::equal(*u, at::eye(300)));
}

TEST(InverseFactor, AddsToTheDiagonalInTheOrderOfTheRows) {
  const auto u = inverse_factor(at::eye(2), {1, 0}, {3.0, 8.0});
  ASSERT_TRUE(u.has_value());
  EXPECT_TRUE(at::allclose(*u, at::diag(at::tensor({0.5f, 1.0f / 3}))));
}

TEST(InverseFactor, OfASingularMatrixDoesNotExist) {
  EXPECT_FALSE(inverse_factor(at::ones({3, 3}), backwards(3), {0, 0, 0}).has_value());
  EXPECT_TRUE(inverse_factor(at::ones({3, 3}), backwards(3), {0.1, 0.1, 0.1}).has_value());
}

}  // namespace
}  // namespace core
