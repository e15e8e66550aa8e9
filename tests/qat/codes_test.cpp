// Codes that are trained: through a copy of the weight, whose gradients are those of the weight that it is rounded to.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "quant/qat/trained_linear.h"
#include "tests/qat/support.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

constexpr int64_t kRows = 16, kColumns = 32;

at::Tensor some_weight() {
  return at::arange(kRows * kColumns, at::kFloat).mul_(0.7391).sin_().reshape({kRows, kColumns});
}

std::shared_ptr<QuantizedLinear> linear_of(std::shared_ptr<const WeightFormat> format) {
  Encoded encoded = format->encode(some_weight(), format->fit(some_weight(), {}));
  return std::make_shared<QuantizedLinear>(std::move(format), std::move(encoded), at::Tensor(), 32, at::kFloat);
}

std::shared_ptr<const WeightFormat> window_format() {
  replication::ReplicationConfig config;
  core::bind(core::parse_yaml("{strategy: parity_sign}", "test"), config, "replication");
  return dynamic_cast<const replication::LinearStrategy&>(config.chosen())
      .format(weight_config("{bits: 2, group_size: 16}"), {"model.layers.0.mlp.up_proj", 7}, {kRows, kColumns});
}

at::Tensor state_named(const TrainedLinear& linear, const std::string& name) {
  for (const core::State& state : linear.state()) {
    if (state.name == name) return state.tensor;
  }
  return {};
}

struct InTraining {
  explicit InTraining(std::shared_ptr<const WeightFormat> format, int64_t encode_every = 1)
      : from(linear_of(std::move(format))),
        linear(*from, false, restored_format_factory, moment,
               {.trains = true, .rate = 2, .encode_every = encode_every}),
        u(state_named(linear, "weight")),
        scale(state_named(linear, "scale")) {
    moment->training = true;
    for (at::Tensor x : {u, scale}) x.set_requires_grad(true);
  }
  std::shared_ptr<TrainingStep> moment = std::make_shared<TrainingStep>();
  std::shared_ptr<QuantizedLinear> from;
  TrainedLinear linear;
  at::Tensor u, scale;
};

const std::vector<std::string> kGrids{"{bits: 2, group_size: 16, symmetry: midrise}", "{bits: 2, group_size: 8}",
                                      "{bits: 3, group_size: -1, symmetry: signed_full}",
                                      "{bits: 2, group_size: 16, symmetry: span, offset: 0.25}"};

TEST(TrainedCodes, BeginAsTheyAre) {
  for (const std::string& grid : kGrids) {
    const InTraining trained(make_format(weight_config(grid), "", kColumns));
    EXPECT_TRUE(at::equal(trained.linear.weight(), trained.from->weight())) << grid;
    EXPECT_EQ(trained.linear.finished()->codes().hash(), trained.from->codes().hash()) << grid;
  }
  const InTraining windows(window_format());
  EXPECT_EQ(windows.linear.finished()->codes().hash(), windows.from->codes().hash());
}

// Of a weight ŵ = s (k − z) with k = clamp(round(u)): dŵ/du = s within the range and 0 beyond, and dŵ/ds = k − z.
TEST(TrainedCodes, HaveTheGradientsOfRoundingThatIsPassedStraightThrough) {
  for (const std::string& grid : kGrids) {
    InTraining trained(make_format(weight_config(grid), "", kColumns));
    {
      const at::NoGradGuard no_gradient;
      trained.u.add_(at::arange(trained.u.numel(), at::kFloat).mul_(1.37).sin_().reshape_as(trained.u) * 0.8);
    }
    const c10::AutoGradMode gradients(true);
    const at::Tensor x = at::arange(3 * kColumns, at::kFloat).mul_(0.311).cos_().reshape({3, kColumns});
    const at::Tensor r = at::arange(3 * kRows, at::kFloat).mul_(0.531).sin_().reshape({3, kRows});
    (trained.linear.forward(x) * r).sum().backward();
    const at::Tensor of_weight = at::mm(r.t(), x);  // [O, I]

    const auto& affine = dynamic_cast<const AffineGrid&>(trained.from->format());
    const ElementGrid levels = affine.element_grid(trained.from->parameters(), kRows, kColumns);
    at::Tensor of_u = at::zeros_like(of_weight), of_scale = at::zeros_like(levels.scale);
    for (int64_t o = 0; o < kRows; ++o) {
      for (int64_t i = 0; i < kColumns; ++i) {
        const int64_t g = i / levels.group_size;
        const double s = levels.scale[o][g].item<double>(), z = levels.shift[o][g].item<double>();
        const double whole = std::nearbyint(trained.u[o][i].item<double>());
        const bool within = whole >= 0 && whole <= levels.top;
        const double k = std::clamp<double>(whole, 0, static_cast<double>(levels.top));
        const double gradient = of_weight[o][i].item<double>();
        if (within) of_u[o][i] = gradient * s;
        of_scale[o][g] += gradient * (k - z);
      }
    }
    EXPECT_TRUE(at::allclose(trained.u.grad(), of_u, 1e-5, 1e-5)) << grid;
    EXPECT_TRUE(at::allclose(trained.scale.grad().reshape_as(of_scale), of_scale, 1e-3, 1e-3)) << grid;
  }
}

// What is computed in training is what the codes of the end stand for.
TEST(TrainedCodes, AreThoseOfTheRoundedCopy) {
  for (const std::string& grid : kGrids) {
    InTraining trained(make_format(weight_config(grid), "", kColumns));
    const at::NoGradGuard no_gradient;
    trained.u.add_(some_weight().flip(0));
    const at::Tensor x = at::eye(kColumns), y = trained.linear.forward(x);
    const auto finished = trained.linear.finished();
    EXPECT_NE(finished->codes().hash(), trained.from->codes().hash());
    EXPECT_LT((finished->forward(x) - y).abs().max().item<double>(), 1e-5) << grid;
  }
}

TEST(TrainedCodes, OfWindowsAreFoundAnewNowAndThen) {
  InTraining trained(window_format(), /*encode_every=*/4);
  const at::Tensor x = at::eye(kColumns);
  const auto weight_now = [&] {
    const at::NoGradGuard no_gradient;
    return trained.linear.forward(x).t().contiguous();
  };
  const auto move = [&] {
    const at::NoGradGuard no_gradient;
    trained.u.add_(some_weight().flip(0), 0.8);
  };
  const at::Tensor first = weight_now();
  move();
  trained.moment->step = 3;
  EXPECT_TRUE(at::equal(weight_now(), first));
  trained.moment->step = 4;
  const at::Tensor second = weight_now();
  const at::Tensor scale = trained.scale.detach().repeat_interleave(16, 1);
  const Encoded expected = trained.from->format().encode(trained.u.detach() * scale, trained.from->parameters());
  EXPECT_TRUE(at::allclose(second, trained.from->format().decode(expected.codes, expected.parameters), 1e-5, 1e-6));
  EXPECT_FALSE(at::equal(second, first));
  move();
  trained.moment->step = 5;
  trained.moment->training = false;  // held-out text sees the codes that would be kept
  EXPECT_FALSE(at::equal(weight_now(), second));

  trained.moment->training = true;
  const c10::AutoGradMode gradients(true);
  trained.linear.forward(x).sum().backward();
  EXPECT_TRUE(at::allclose(trained.u.grad(), scale));
}

}  // namespace
}  // namespace quant
