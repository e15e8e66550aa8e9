// The likeliest token against ATen's.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/context.h"

namespace {

TEST(Likeliest, IsTheFirstOfTheLargest) {
  at::manual_seed(5);
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const int64_t n : {1, 2, 15, 16, 17, 1000, 49152}) {
    const at::Tensor x = at::randn({1, n}), few = at::randint(0, 3, {1, n}).to(at::kFloat);
    at::Tensor strange = x.clone(), infinite = x.clone();
    strange[0][n / 2] = std::numeric_limits<float>::quiet_NaN();
    infinite[0][n - 1] = kInfinity;
    for (const at::Tensor& logits : {x, few, strange, infinite, at::full({1, n}, -kInfinity), at::randn({3, n})})
      EXPECT_TRUE(core::likeliest(logits).equal(logits.argmax(-1, /*keepdim=*/true))) << n;
  }
}

}  // namespace
