// The loss in one pass against its definition in tensor operations, computed in double.
#include "core/nn/cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/nn/float32.h"

namespace core {
namespace {

at::Tensor targets(int64_t rows, int64_t vocabulary) {
  return at::arange(rows, at::kLong).mul(7).remainder(vocabulary);
}

std::vector<std::pair<const char*, at::Tensor>> named_logits(int64_t rows, int64_t vocabulary) {
  at::Tensor sure = at::randn({rows, vocabulary});
  sure.select(1, vocabulary / 2).add_(40);
  return {{"normal", at::randn({rows, vocabulary})},
          {"zeros", at::zeros({rows, vocabulary})},
          {"flat and large", at::full({rows, vocabulary}, 1000.0)},
          {"ramp", at::linspace(-80, 80, rows * vocabulary).reshape({rows, vocabulary})},
          {"sure", sure}};
}

// Sizes that fill no vector, one, several, several threads, and more than one partial sum.
TEST(CrossEntropy, EqualsItsDefinition) {
  at::NoGradGuard no_gradient;
  at::manual_seed(1);
  for (auto [rows, vocabulary] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {5, 16}, {64, 1024}, {3, 40003}}) {
    for (const auto& [name, logits] : named_logits(rows, vocabulary)) {
      const at::Tensor target = targets(rows, vocabulary);
      const at::Tensor exact = cross_entropy_reference(logits.to(at::kDouble), target);
      // The sum: 2 units of the exponential, x - top rounded (up to half a unit of 160), at most 4,096 terms in a row.
      const double bound = kEps * (2 + 80 + 2048) + kEps * exact.abs().max().item<double>();
      const double worst = (cross_entropy(logits, target).to(at::kDouble) - exact).abs().max().item<double>();
      EXPECT_LE(worst, bound) << name << " " << rows << " x " << vocabulary;
    }
  }
}

TEST(CrossEntropy, OfEqualLogitsIsTheLogarithmOfTheVocabulary) {
  const at::Tensor loss = cross_entropy(at::zeros({2, 50000}), at::tensor({0, 49999}, at::kLong));
  EXPECT_NEAR(loss[0].item<double>(), std::log(50000.0), 1e-5);
  EXPECT_NEAR(loss[1].item<double>(), std::log(50000.0), 1e-5);
}

TEST(CrossEntropy, IsNotFiniteWhereTheLogitsAreNot) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();
  for (const float bad : {kInfinity, kNan}) {
    at::Tensor logits = at::randn({3, 33});
    logits[1][20] = bad;
    const at::Tensor finite = cross_entropy(logits, targets(3, 33)).isfinite();
    EXPECT_TRUE(finite[0].item<bool>() && finite[2].item<bool>());
    EXPECT_FALSE(finite[1].item<bool>());
  }
  at::Tensor impossible = at::zeros({1, 4});
  impossible[0][2] = -kInfinity;
  EXPECT_EQ(cross_entropy(impossible, at::tensor({2}, at::kLong)).item<float>(), kInfinity);
  EXPECT_NEAR(cross_entropy(impossible, at::tensor({1}, at::kLong)).item<double>(), std::log(3.0), 1e-6);
}

TEST(CrossEntropy, OfOtherDtypesAndStridesIsTheDefinition) {
  const at::Tensor logits = at::randn({6, 40});
  EXPECT_TRUE(at::allclose(cross_entropy(logits.to(at::kDouble), targets(6, 40)).to(at::kFloat),
                           cross_entropy(logits, targets(6, 40)), 0, 1e-5));
  EXPECT_TRUE(at::allclose(cross_entropy(logits.t().contiguous().t(), targets(6, 40)),
                           cross_entropy(logits, targets(6, 40)), 0, 1e-5));
  EXPECT_EQ(cross_entropy(logits.to(at::kBFloat16), targets(6, 40)).scalar_type(), at::kFloat);
}

TEST(CrossEntropy, RefusesATokenBeyondTheVocabulary) {
  EXPECT_ANY_THROW(cross_entropy(at::zeros({1, 8}), at::tensor({8}, at::kLong)));
  EXPECT_ANY_THROW(cross_entropy(at::zeros({1, 8}), at::tensor({-1}, at::kLong)));
}

TEST(CrossEntropy, HasTheGradientOfItsDefinition) {
  at::AutoGradMode gradient(true);
  const at::Tensor logits = at::randn({3, 9}).requires_grad_(), target = targets(3, 9);
  cross_entropy(logits, target).sum().backward();
  const at::Tensor exact = logits.detach().softmax(-1) - at::one_hot(target, 9);
  EXPECT_LE((logits.grad() - exact).abs().max().item<double>(), 1e-6);
}

// ---- the divergence of two models ----

// Σ p ln(p / q) of one row, in double, plain loops.
double slow_kl(const at::Tensor& full, const at::Tensor& logits) {
  const at::Tensor p = full.to(at::kDouble).contiguous(), q = logits.to(at::kDouble).contiguous();
  const double *a = p.const_data_ptr<double>(), *b = q.const_data_ptr<double>();
  const int64_t width = p.numel();
  const auto log_sum = [&](const double* x) {
    double top = x[0], sum = 0;
    for (int64_t i = 0; i < width; ++i) top = std::max(top, x[i]);
    for (int64_t i = 0; i < width; ++i) sum += std::exp(x[i] - top);
    return top + std::log(sum);
  };
  const double of_a = log_sum(a), of_b = log_sum(b);
  double kl = 0;
  for (int64_t i = 0; i < width; ++i) kl += std::exp(a[i] - of_a) * ((a[i] - of_a) - (b[i] - of_b));
  return kl;
}

TEST(Divergence, EqualsASlowReference) {
  at::NoGradGuard no_gradient;
  at::manual_seed(2);
  for (auto [rows, vocabulary] : {std::pair<int64_t, int64_t>{1, 1}, {3, 7}, {5, 16}, {64, 1024}, {3, 40003}}) {
    for (const auto& [name, full] : named_logits(rows, vocabulary)) {
      for (const double noise : {0.0, 1e-3, 0.5, 5.0}) {
        const at::Tensor logits = full + noise * at::randn({rows, vocabulary});
        const at::Tensor target = targets(rows, vocabulary);
        const Divergence fast = divergence(full, logits, target);
        EXPECT_TRUE(fast.nll.equal(cross_entropy(logits, target))) << name << ": not bit for bit the loss alone";
        EXPECT_TRUE(fast.same_top.equal(full.argmax(-1) == logits.argmax(-1))) << name;
        const at::Tensor p = full.to(at::kDouble).softmax(-1);
        EXPECT_TRUE(at::allclose(fast.full_top.to(at::kDouble), p.amax(-1), 1e-5, 1e-9)) << name;
        EXPECT_TRUE(
            at::allclose(fast.full_target.to(at::kDouble), p.gather(-1, target.unsqueeze(-1)).squeeze(-1), 1e-4, 1e-9))
            << name;
        for (int64_t row = 0; row < rows; ++row) {
          const double exact = slow_kl(full[row], logits[row]);
          // Only positive terms: at most 4,096 in a row, each with a few roundings, and the weights likewise.
          const double bound = kEps * (2 * 4096 + 32) * exact + 1e-9;
          EXPECT_NEAR(fast.kl[row].item<double>(), exact, bound)
              << name << " " << rows << " x " << vocabulary << " row " << row << " noise " << noise;
        }
      }
    }
  }
}

TEST(Divergence, OfAModelFromItselfIsExactlyZero) {
  at::manual_seed(3);
  const at::Tensor logits = 10 * at::randn({40, 5001});
  const Divergence self = divergence(logits, logits.clone(), targets(40, 5001));
  EXPECT_EQ(self.kl.abs().max().item<float>(), 0.0f);
  EXPECT_TRUE(self.same_top.all().item<bool>());
  // A shift of all logits changes no probability, only their last digits: half a unit of 128 is 7.6e-6.
  EXPECT_LE(divergence(logits, logits + 64, targets(40, 5001)).kl.max().item<double>(), 7.6e-6 * 7.6e-6);
}

TEST(Divergence, TopIsTheFirstOfEqualLogits) {
  const at::Tensor full = at::tensor({1, 3, 3, 0, 1, 3, 3, 0, 5, 1, 0, 0}, at::kFloat).reshape({3, 4});
  const at::Tensor logits = at::tensor({0, 2, 2, 2, 0, 1, 2, 0, 5, 5, 0, 0}, at::kFloat).reshape({3, 4});
  const Divergence d = divergence(full, logits, targets(3, 4));
  EXPECT_TRUE(d.same_top.equal(at::tensor({1, 0, 1}, at::kLong).to(at::kBool)));
}

TEST(Divergence, OfOtherDtypesIsTheDefinition) {
  const at::Tensor full = at::randn({6, 40}), logits = full + at::randn({6, 40}) / 4, target = targets(6, 40);
  const Divergence fast = divergence(full, logits, target),
                   wide = divergence(full.to(at::kDouble), logits.to(at::kDouble), target);
  EXPECT_TRUE(at::allclose(wide.kl.to(at::kFloat), fast.kl, 1e-4, 1e-6));
  EXPECT_TRUE(wide.same_top.equal(fast.same_top));
  EXPECT_EQ(divergence(full.to(at::kBFloat16), logits.to(at::kBFloat16), target).kl.scalar_type(), at::kFloat);
}

TEST(Divergence, IsNotFiniteWhereTheLogitsAreNot) {
  at::Tensor full = at::randn({2, 33}), logits = at::randn({2, 33});
  logits[1][20] = std::numeric_limits<float>::quiet_NaN();
  const Divergence d = divergence(full, logits, targets(2, 33));
  EXPECT_TRUE(d.kl[0].isfinite().item<bool>());
  EXPECT_FALSE(d.kl[1].isfinite().item<bool>());
  EXPECT_ANY_THROW(divergence(full, at::randn({2, 32}), targets(2, 32)));
  EXPECT_ANY_THROW(divergence(full, full, at::tensor({0, 33}, at::kLong)));
}

}  // namespace
}  // namespace core
