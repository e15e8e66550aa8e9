#include "core/hadamard.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace core {
namespace {

// The matrix that multiply(x) = x Hᵀ applies.
at::Tensor matrix_of(const Hadamard& hadamard) { return hadamard.multiply(at::eye(hadamard.width())).t(); }

TEST(Hadamard, MatricesAreOrthogonalWithEntriesOfOneSize) {
  for (const int64_t n : {1, 2, 4, 12, 20, 28, 36, 44, 60, 64, 128, 192, 576, 896, 1536}) {
    const Hadamard hadamard(n);
    ASSERT_EQ(hadamard.block(), n);
    const at::Tensor h = matrix_of(hadamard);
    EXPECT_TRUE(at::allclose(h.mm(h.t()), at::eye(n), 0, 1e-5)) << n;
    EXPECT_TRUE(at::allclose(h.abs(), at::full({n, n}, 1 / std::sqrt(static_cast<double>(n))), 1e-5, 1e-7)) << n;
  }
}

TEST(Hadamard, OfOtherWidthsTheLargestBlocksAreMixed) {
  EXPECT_EQ(Hadamard(11008).block(), 256);  // 2^8 · 43
  EXPECT_EQ(Hadamard(288).block(), 288);    // 8 · 36
  EXPECT_EQ(Hadamard(7).block(), 1);
  const at::Tensor h = matrix_of(Hadamard(24 + 4));
  EXPECT_EQ(h.size(0), 28);
  const at::Tensor blocks = matrix_of(Hadamard(6));  // three blocks of 2
  EXPECT_EQ((blocks != 0).sum().item<int64_t>(), 12);
}

TEST(Hadamard, TheTransposedUndoesIt) {
  at::manual_seed(1);
  const at::Tensor x = at::randn({3, 5, 576});
  const Hadamard hadamard(576);
  EXPECT_TRUE(at::allclose(hadamard.multiply_transposed(hadamard.multiply(x)), x, 0, 1e-5));
  EXPECT_EQ(hadamard.macs(), 576 * (36 + 16));
  EXPECT_EQ(Hadamard(1536).macs(), 1536 * (12 + 3 + 16)) << "eight times sixteen";
  EXPECT_EQ(Hadamard(4096).macs(), 4096 * (8 + 16));
  EXPECT_EQ(Hadamard(7).macs(), 0);
}

TEST(Hadamard, PlainLoopsMultiplyAsTensorOperationsDo) {
  at::manual_seed(2);
  for (const int64_t n : {1, 7, 8, 16, 20, 28, 32, 60, 64, 576, 688, 1536, 4096, 11008}) {
    const Hadamard hadamard(n);
    const at::Tensor x = at::randn({3, 5, n});
    const at::Tensor followed = x.clone().requires_grad_();  // the loops have no gradient
    EXPECT_TRUE(at::allclose(hadamard.multiply(x), hadamard.multiply(followed), 0, 1e-5)) << n;
    EXPECT_TRUE(at::allclose(hadamard.multiply_transposed(x), hadamard.multiply_transposed(followed), 0, 1e-5)) << n;
  }
}

}  // namespace
}  // namespace core
