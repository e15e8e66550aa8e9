// What is drawn: stochastic rounding and noise, their distribution, and that they follow from seed and path alone.
#include "quant/grids/draws.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

const Place kHere{"model.layers.0.mlp.up_proj", 42};

TEST(UniformDraw, IsUniformInZeroToOne) {
  const at::Tensor draw = uniform_draw(kHere, "test", 0, 300, 1000);
  EXPECT_GE(draw.min().item<double>(), 0.0);
  EXPECT_LT(draw.max().item<double>(), 1.0);
  const double error = 1 / std::sqrt(12.0 * 300000);  // of the mean
  EXPECT_NEAR(draw.mean().item<double>(), 0.5, 5 * error);
  EXPECT_NEAR(at::mean(at::square(draw)).item<double>(), 1.0 / 3, 5 * error);
}

TEST(NormalDraw, HasTheMomentsOfANormalDistribution) {
  const at::Tensor draw = normal_draw(kHere, "test", 0, 301, 1001);  // odd: the last pair is cut
  const double count = 301 * 1001;
  EXPECT_NEAR(draw.mean().item<double>(), 0, 5 / std::sqrt(count));
  EXPECT_NEAR(at::mean(draw.pow(2)).item<double>(), 1, 5 * std::sqrt(2 / count));
  EXPECT_NEAR(at::mean(draw.pow(4)).item<double>(), 3, 5 * std::sqrt(96 / count));
  EXPECT_NEAR((draw.abs() < 1).to(at::kFloat).mean().item<double>(), 0.6827, 5 * std::sqrt(0.25 / count));
}

TEST(Draws, FollowFromSeedPathPurposeAndStep) {
  const at::Tensor draw = normal_draw(kHere, "noise", 0, 4, 5);
  EXPECT_TRUE(at::equal(normal_draw(kHere, "noise", 0, 4, 5), draw));
  EXPECT_FALSE(at::equal(normal_draw({kHere.path, 43}, "noise", 0, 4, 5), draw));
  EXPECT_FALSE(at::equal(normal_draw({"lm_head", 42}, "noise", 0, 4, 5), draw));
  EXPECT_FALSE(at::equal(normal_draw(kHere, "rounding", 0, 4, 5), draw));
  EXPECT_FALSE(at::equal(normal_draw(kHere, "noise", 1, 4, 5), draw));
}

// ---- stochastic rounding ----

const std::vector<std::string> kStochastic{
    "bits: 3, rounding: stochastic", "bits: 3, symmetry: signed_full, rounding: stochastic",
    "bits: 2, codebook: levels, levels: [-1, -0.4, 0.2, 1], rounding: stochastic"};

// Every weight goes to one of its two neighbours, and on average it stays where it is.
TEST(StochasticRounding, IsUnbiasedBetweenTheTwoNeighbours) {
  const int64_t rows = 4000;
  const at::Tensor w = at::linspace(-1, 1, 21).reshape({1, -1}).repeat({rows, 1});
  for (const std::string& variables : kStochastic) {
    SCOPED_TRACE(variables);
    const auto format =
        make_format(weight_config("{group_size: -1, scale_dtype: float32, " + variables + "}"), "a", 21, 3);
    const Encoded encoded = quantized(*format, w);
    const ElementGrid grid = format->element_grid(encoded.parameters, rows, 21);
    const at::Tensor found = grid.decode(encoded.codes);
    at::Tensor lower = at::full_like(w, -1e9), upper = at::full_like(w, 1e9);
    for (int64_t k = 0; k <= grid.top; ++k) {
      const at::Tensor level = grid.decode(at::full_like(encoded.codes, k));
      lower = at::where(level <= w + 1e-6, at::maximum(lower, level), lower);
      upper = at::where(level >= w - 1e-6, at::minimum(upper, level), upper);
    }
    const at::Tensor inside = (lower > -1e8).logical_and(upper < 1e8);
    const at::Tensor neighbour = (at::abs(found - lower) < 1e-6).logical_or(at::abs(found - upper) < 1e-6);
    EXPECT_TRUE(neighbour.logical_or(inside.logical_not()).all().item<bool>());
    const at::Tensor bias = at::abs((found - w).mean(0)), gap = (upper - lower).select(0, 0);
    const at::Tensor bound = gap * (5 * 0.5 / std::sqrt(static_cast<double>(rows))) + 1e-6;  // five standard errors
    EXPECT_TRUE((bias <= bound).logical_or(inside.select(0, 0).logical_not()).all().item<bool>()) << bias << gap;
    EXPECT_GT(inside.select(0, 0).sum().item<int64_t>(), 15);
  }
}

TEST(StochasticRounding, LeavesLevelsAloneAndFollowsSeedAndPath) {
  at::manual_seed(4);
  const at::Tensor w = at::randn({8, 64});
  for (const std::string& variables : kStochastic) {
    SCOPED_TRACE(variables);
    const WeightConfig config = weight_config("{group_size: 16, " + variables + "}");
    const auto format = make_format(config, "a", 64, 3);
    const Encoded encoded = quantized(*format, w);
    const at::Tensor again =
        format->encode(format->decode(encoded.codes, encoded.parameters), encoded.parameters).codes;
    // A level divided by its scale is an integer up to the roundings of float32, so a draw close to 0 or 1 may move it.
    EXPECT_GT(at::mean((again == encoded.codes).to(at::kFloat)).item<double>(), 0.99);
    EXPECT_TRUE(at::equal(quantized(*make_format(config, "a", 64, 3), w).codes, encoded.codes));
    EXPECT_FALSE(at::equal(quantized(*make_format(config, "a", 64, 4), w).codes, encoded.codes));
    EXPECT_FALSE(at::equal(quantized(*make_format(config, "b", 64, 3), w).codes, encoded.codes));
  }
}

// ---- noise ----

QuantizedLinear noisy(const std::string& noise, uint64_t seed = 1, const std::string& path = "a") {
  at::manual_seed(12);
  const at::Tensor w = at::randn({64, 256});
  const auto format = make_format(weight_config("{bits: 4, group_size: 64, noise: " + noise + "}"), path, 256, seed);
  return QuantizedLinear(format, quantized(*format, w), {}, 0, at::kFloat);
}

TEST(Noise, OfInferenceHasItsSigmaInStepsAndIsOneDraw) {
  QuantizedLinear linear = noisy("{sigma: 0.5}");
  const QuantizedLinear plain = noisy("{sigma: 0.0}");
  const ElementGrid grid = as_elements(linear.format()).element_grid(linear.parameters(), 64, 256);
  const at::Tensor steps = (linear.weight() - plain.weight()) / grid.scale.repeat_interleave(64, 1);
  EXPECT_NEAR(steps.mean().item<double>(), 0, 5 * 0.5 / 128);
  EXPECT_NEAR(steps.std().item<double>(), 0.5, 5 * 0.5 / std::sqrt(2.0 * 64 * 256));
  EXPECT_TRUE(at::equal(linear.weight(), linear.weight()));
  EXPECT_TRUE(at::equal(linear.weight(), noisy("{sigma: 0.5}").weight()));
  EXPECT_FALSE(at::equal(linear.weight(), noisy("{sigma: 0.5}", 2).weight()));
  EXPECT_FALSE(at::equal(linear.weight(), noisy("{sigma: 0.5}", 1, "b").weight()));
}

TEST(Noise, CostsNothingAndOfTrainingIsAbsentWhenMeasuring) {
  EXPECT_EQ(noisy("{sigma: 0.5}").cost().parameter_bits, noisy("{sigma: 0.0}").cost().parameter_bits);
  EXPECT_TRUE(at::equal(noisy("{sigma: 0.5, at: train}").weight(), noisy("{sigma: 0.0}").weight()));
}

}  // namespace
}  // namespace quant
