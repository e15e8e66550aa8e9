// The fused loops against their definitions in tensor operations, computed in double.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/nn/activation.h"
#include "core/nn/norm.h"
#include "core/nn/rotary.h"
#include "tests/nn/float32.h"

namespace {

struct Data {
  const char* name;
  at::Tensor x;  // [rows, width]
};

std::vector<Data> named_data(int64_t rows, int64_t width) {
  at::Tensor outlier = at::randn({rows, width});
  outlier.select(1, width / 2).mul_(1000);
  return {{"normal", at::randn({rows, width})},
          {"zeros", at::zeros({rows, width})},
          {"flat", at::full({rows, width}, -3.25)},
          {"ramp", at::linspace(-90, 90, rows * width).reshape({rows, width})},
          {"outlier", outlier},
          {"tiny", at::randn({rows, width}) * 1e-12}};
}

// Sizes that fill no vector, one vector, several, and several threads.
constexpr std::pair<int64_t, int64_t> kSizes[] = {{1, 1}, {3, 7}, {2, 16}, {5, 33}, {300, 128}, {70, 1000}};

template <typename Check>
void on_all_data(Check check) {
  at::NoGradGuard no_gradient;
  at::manual_seed(1);
  for (auto [rows, width] : kSizes) {
    for (const Data& data : named_data(rows, width)) {
      SCOPED_TRACE(testing::Message() << data.name << " " << rows << " x " << width);
      check(data.x);
    }
  }
}

// |a - b| ≤ bound · (|b| + floor) everywhere, both in double; prints the worst place.
void expect_close(const at::Tensor& a, const at::Tensor& b, double bound, double floor) {
  const at::Tensor excess = ((a.to(at::kDouble) - b).abs() / (b.abs() + floor)).reshape(-1);
  const int64_t worst = excess.argmax().item<int64_t>();
  EXPECT_LE(excess[worst].item<double>(), bound) << "at " << worst << ": " << a.reshape(-1)[worst].item<double>()
                                                 << " for " << b.reshape(-1)[worst].item<double>();
}

TEST(RmsNorm, FusedEqualsItsDefinition) {
  on_all_data([](const at::Tensor& x) {
    const at::Tensor weight = at::randn({x.size(1)});
    const at::Tensor exact = core::rms_norm_reference(x.to(at::kDouble), weight.to(at::kDouble), 1e-6);
    // A sum of n squares in any order: relative error at most n·eps/2, halved by the root; then three products and a
    // division.
    const double bound = kEps * (static_cast<double>(x.size(1)) / 4 + 4);
    expect_close(core::rms_norm(x, weight, 1e-6), exact, bound, 1e-30);
  });
}

TEST(RmsNorm, NanStaysNan) {
  at::Tensor x = at::randn({2, 8});
  x[1][3] = std::numeric_limits<float>::quiet_NaN();
  const at::Tensor y = core::rms_norm(x, at::ones({8}), 1e-6);
  EXPECT_FALSE(y[0].isnan().any().item<bool>());
  EXPECT_TRUE(y[1].isnan().all().item<bool>());
}

TEST(RmsNorm, OfBfloat16TakesTheMeanInFloat32) {
  const at::Tensor x = at::randn({4, 4096}).to(at::kBFloat16);
  const at::Tensor exact = core::rms_norm_reference(x.to(at::kDouble), at::ones({4096}, at::kDouble), 1e-6);
  const at::Tensor y = core::rms_norm(x, at::ones({4096}, at::kBFloat16), 1e-6);
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  expect_close(y, exact, 0x1p-8, 0);  // one rounding
}

TEST(RmsNorm, HasTheGradientOfItsDefinition) {
  at::AutoGradMode gradient(true);
  const at::Tensor x = at::randn({3, 16}).requires_grad_(), weight = at::randn({16}).requires_grad_();
  const at::Tensor y = core::rms_norm(x, weight, 1e-6);
  ASSERT_TRUE(y.requires_grad());
  y.square().sum().backward();
  const at::Tensor xd = x.detach().to(at::kDouble), step = at::zeros({3, 16}, at::kDouble);
  const auto loss = [&](double h) {
    at::Tensor moved = xd.clone();
    moved[1][5] += h;
    return core::rms_norm_reference(moved, weight.detach().to(at::kDouble), 1e-6).square().sum().item<double>();
  };
  const double slope = (loss(1e-5) - loss(-1e-5)) / 2e-5;
  EXPECT_NEAR(x.grad()[1][5].item<double>(), slope, 1e-4 * (1 + std::abs(slope)));
}

TEST(SiluProduct, FusedEqualsItsDefinition) {
  on_all_data([](const at::Tensor& gate) {
    const at::Tensor up = at::randn_like(gate);
    const at::Tensor exact = core::silu_product_reference(gate.to(at::kDouble), up.to(at::kDouble));
    // exp: 2 units in the last place, plus up to |x|·eps/2 from rounding x·log2(e) where x is large; sum, division,
    // product: 2. Below -87 the exponential is clamped: the result is then off by less than 1e-35.
    expect_close(core::silu_product(gate, up), exact, 8 * kEps, 1e-28);
  });
}

TEST(SiluProduct, OfExtremeGatesIsTheirLimit) {
  const at::Tensor gate = at::tensor({-1e30f, -200.0f, -87.5f, 0.0f, 87.5f, 200.0f, 1e30f});
  const at::Tensor y = core::silu_product(gate, at::ones({7}));
  EXPECT_NEAR(y[1].item<float>(), 0.0f, 1e-30);
  EXPECT_NEAR(y[2].item<float>(), 0.0f, 1e-30);
  EXPECT_EQ(y[3].item<float>(), 0.0f);
  EXPECT_EQ(y[4].item<float>(), 87.5f);
  EXPECT_EQ(y[5].item<float>(), 200.0f);
  EXPECT_EQ(y[6].item<float>(), 1e30f);
}

TEST(SiluProduct, NanStaysNan) {
  const float kNan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(core::silu_product(at::tensor({kNan, 1.0f}), at::ones({2}))[0].isnan().item<bool>());
  EXPECT_TRUE(core::silu_product(at::ones({2}), at::tensor({kNan, 1.0f}))[0].isnan().item<bool>());
}

TEST(SiluProduct, HasTheGradientOfItsDefinition) {
  at::AutoGradMode gradient(true);
  const at::Tensor gate = at::randn({5, 9}).requires_grad_(), up = at::randn({5, 9});
  core::silu_product(gate, up).sum().backward();
  const at::Tensor sigmoid = gate.detach().sigmoid();
  const at::Tensor exact = up * sigmoid * (1 + gate.detach() * (1 - sigmoid));
  expect_close(gate.grad(), exact.to(at::kDouble), 16 * kEps, 1.0);
}

core::Rotary rotary(int64_t head_width) {
  return core::Rotary::from_config(core::JsonObject::parse("{\"rope_theta\": 100.0}", "config.json"), head_width);
}

TEST(Rotary, FusedEqualsItsDefinition) {
  at::NoGradGuard no_gradient;
  for (int64_t width : {2, 6, 32, 64, 128}) {
    for (int64_t position : {0, 1, 1000}) {
      const core::Rotary rope = rotary(width);
      const at::Tensor x = at::randn({2, 70, 3, width});
      const at::Tensor exact = rope.apply_reference(x.to(at::kDouble), position);
      // two products and a sum of numbers up to |x|
      expect_close(rope.apply(x.clone(), position), exact, 2 * kEps, x.abs().max().item<double>());
    }
  }
}

TEST(Rotary, TurnsEachPairByPositionTimesFrequency) {
  const core::Rotary rope = rotary(4);  // frequencies 1 and 0.1
  const at::Tensor y = rope.apply(at::tensor({1.0f, 1.0f, 0.0f, 0.0f}).reshape({1, 1, 1, 4}), 3).reshape(-1);
  EXPECT_NEAR(y[0].item<double>(), std::cos(3.0), 2 * kEps);
  EXPECT_NEAR(y[2].item<double>(), std::sin(3.0), 2 * kEps);
  EXPECT_NEAR(y[1].item<double>(), std::cos(0.3), 2 * kEps);
  EXPECT_NEAR(y[3].item<double>(), std::sin(0.3), 2 * kEps);
}

TEST(Rotary, ScoresDependOnDistanceOnly) {
  const core::Rotary rope = rotary(16);
  const at::Tensor q = at::randn({1, 1, 1, 16}), k = at::randn({1, 1, 1, 16});
  const auto score = [&](int64_t i, int64_t j) {
    return (rope.apply(q.clone(), i) * rope.apply(k.clone(), j)).sum().item<double>();
  };
  EXPECT_NEAR(score(9, 4), score(25, 20), 1e-4);
  EXPECT_GT(std::abs(score(9, 4) - score(9, 5)), 1e-3);
}

TEST(Rotary, RotatesInPlaceUnlessAGradientIsWanted) {
  const core::Rotary rope = rotary(8);
  const at::Tensor x = at::randn({1, 4, 2, 8});
  EXPECT_TRUE(rope.apply(x, 0).is_same(x));
  at::AutoGradMode gradient(true);
  const at::Tensor leaf = at::randn({1, 4, 2, 8}).requires_grad_();
  const at::Tensor before = leaf.detach().clone();
  const at::Tensor y = rope.apply(leaf, 5);
  EXPECT_TRUE(y.requires_grad());
  EXPECT_TRUE(at::equal(leaf.detach(), before));
}

TEST(Fused, ResultsDoNotDependOnTheNumberOfThreads) {
  at::NoGradGuard no_gradient;
  const at::Tensor x = at::randn({2, 512, 4, 128}), weight = at::randn({128});
  const int threads = at::get_num_threads();
  const auto run = [&] {
    return std::vector<at::Tensor>{core::rms_norm(x, weight, 1e-6), core::silu_product(x, x + 1),
                                   rotary(128).apply(x.clone(), 0)};
  };
  const std::vector<at::Tensor> many = run();
  at::set_num_threads(1);
  const std::vector<at::Tensor> one = run();
  at::set_num_threads(threads);
  for (size_t i = 0; i < many.size(); ++i) EXPECT_TRUE(at::equal(many[i], one[i])) << i;
}

}  // namespace
