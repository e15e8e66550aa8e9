// Quantized inputs against plain loops in double, the three ways to clip, and what a linear does with them.
#include "quant/grids/activation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "tests/io/support.h"

namespace quant {
namespace {

constexpr int64_t kBatch = 2, kTokens = 3, kWidth = 16;

ActivationConfig activation_config(const std::string& yaml) {
  ActivationConfig config;
  core::bind(core::parse_yaml(yaml, "test.yaml"), config, "quant.activation");
  return config;
}

at::Tensor rounded(const std::string& yaml, const at::Tensor& x, uint64_t seed = 1, const std::string& path = "a") {
  return make_input_quantizer(activation_config("{" + yaml + "}"), path, x.size(-1), seed)->apply(x);
}

at::Tensor activation_inputs() {
  at::manual_seed(21);
  return at::randn({kBatch, kTokens, kWidth}) * at::tensor({1.0, 10.0, 0.01}, at::kFloat).reshape({1, kTokens, 1});
}

// ---- the definition, one group of values at a time ----

struct Slow {
  double bits, clip = 1, offset = 0;
  std::string symmetry = "asymmetric";

  std::vector<double> operator()(const std::vector<double>& x) const {
    const auto [lo, hi] = std::minmax_element(x.begin(), x.end());
    std::vector<double> out;
    for (const double v : x) out.push_back(within(*lo, *hi, v));
    return out;
  }
  // The level of v when the group reaches from lo to hi.
  double within(double lo, double hi, double v) const {
    const double top = std::pow(2.0, bits) - 1, largest = std::max(hi, -lo) * clip;
    const bool asymmetric = symmetry == "asymmetric";
    const double scale = asymmetric ? (std::max(hi, 0.0) - std::min(lo, 0.0)) * clip / top : 2 * largest / top;
    const double zero = asymmetric ? std::nearbyint(-std::min(lo, 0.0) * clip / scale) : top / 2;
    const double code = std::clamp(std::nearbyint(v / scale + zero - offset), 0.0, top);
    return scale * (code - zero + offset);
  }
};

// Values of a group are consecutive: S of them, or all.
void expect_as_slow_inputs(const std::string& yaml, const Slow& slow, int64_t size) {
  SCOPED_TRACE(yaml);
  const at::Tensor x = activation_inputs().contiguous(), found = rounded(yaml, x).contiguous();
  const auto *values = x.const_data_ptr<float>(), *quantized = found.const_data_ptr<float>();
  for (int64_t first = 0; first < x.numel(); first += size) {
    const std::vector<double> group(values + first, values + first + size), exact = slow(group);
    double largest = 0;
    for (const double v : group) largest = std::max(largest, std::abs(v));
    for (int64_t j = 0; j < size; ++j) ASSERT_NEAR(quantized[first + j], exact[j], 2e-6 * largest) << first + j;
  }
}

TEST(InputQuantizer, IsWhatPlainLoopsInDoubleGive) {
  expect_as_slow_inputs("bits: 8", {.bits = 8}, kWidth);
  expect_as_slow_inputs("bits: 2", {.bits = 2}, kWidth);
  expect_as_slow_inputs("bits: 4, granularity: per_group, group_size: 4", {.bits = 4}, 4);
  expect_as_slow_inputs("bits: 6, granularity: per_tensor", {.bits = 6}, kBatch * kTokens * kWidth);
  expect_as_slow_inputs("bits: 5, clip: {value: 0.7}", {.bits = 5, .clip = 0.7}, kWidth);
  expect_as_slow_inputs("bits: 4, offset: 0.3", {.bits = 4, .offset = 0.3}, kWidth);
  expect_as_slow_inputs("bits: 3, symmetry: midrise", {.bits = 3, .symmetry = "midrise"}, kWidth);
}

TEST(InputQuantizer, OfReplicasIsTheMeanOfTheirs) {
  const at::Tensor x = activation_inputs();
  const at::Tensor mean =
      (rounded("bits: 4, offset: 0.2, clip: {value: 0.8}", x) + rounded("bits: 4, offset: 0.5", x)) / 2;
  EXPECT_TRUE(at::equal(rounded("bits: 4, offset: 0.2, replicas: [{clip: {value: 0.8}}, {offset: 0.3}]", x), mean));
  EXPECT_TRUE(at::equal(rounded("bits: 4, replicas: [{}]", x), rounded("bits: 4", x)));
}

// code = clamp(round(v / (f s) + z + d)), level f s (code − z − d).
TEST(InputQuantizer, OfAReplicaHasItsFactorAndItsShift) {
  const at::Tensor x = activation_inputs().reshape({-1, kWidth});
  const double f = 0.8, d = 1.3, top = 7;
  const at::Tensor found = rounded("bits: 3, replicas: [{scale: 0.8, zero_point: 1.3}]", x);
  for (int64_t t = 0; t < x.size(0); ++t) {
    const double lo = std::min(x[t].min().item<double>(), 0.0), hi = std::max(x[t].max().item<double>(), 0.0);
    const double scale = (hi - lo) / top, zero = std::nearbyint(-lo / scale) + d;
    for (int64_t j = 0; j < kWidth; ++j) {
      const double code = std::clamp(std::nearbyint(x[t][j].item<double>() / (f * scale) + zero), 0.0, top);
      ASSERT_NEAR(found[t][j].item<double>(), f * scale * (code - zero), 4e-6 * (hi - lo)) << t << " " << j;
    }
  }
}

// Offsets a fraction of a step apart are together a finer grid: error 1 / R² (Hermite's identity). The study
// has 2.2e-2, 5.6e-3 and 1.4e-3 with 4 bits for Gaussian inputs; away from the ends of the range, which offsets move.
TEST(InputQuantizer, OfStaggeredReplicasIsAFinerGrid) {
  at::manual_seed(24);
  const at::Tensor x = 0.8 * (at::rand({64, 256}) - 0.5);  // six of the 15 steps between −1 and 1
  const at::Tensor wide = at::cat({x, at::full({64, 1}, 1.0), at::full({64, 1}, -1.0)}, 1);
  const auto error = [&](const std::string& replicas) {
    const at::Tensor found = rounded("bits: 4, symmetry: midrise, replicas: " + replicas, wide).narrow(1, 0, 256);
    return at::mean(at::square(found - x)).item<double>();
  };
  const double one = error("[{}]");
  EXPECT_NEAR(error("[{}, {}]"), one, 1e-9);
  EXPECT_NEAR(error("[{offset: -0.25}, {offset: 0.25}]"), one / 4, 0.03 * one / 4);
  EXPECT_NEAR(error("[{offset: -0.375}, {offset: -0.125}, {offset: 0.125}, {offset: 0.375}]"), one / 16,
              0.03 * one / 16);
}

TEST(InputQuantizer, OfReplicasRoundsEachAtRandomByItself) {
  const at::Tensor x = at::rand({1, 2, 4096});
  const auto error = [&](const std::string& yaml) {
    return at::mean(at::square(rounded("bits: 2, rounding: stochastic" + yaml, x) - x)).item<double>();
  };
  EXPECT_NEAR(error(", replicas: [{}, {}]"), error("") / 2, 0.05 * error(""));
}

TEST(InputQuantizer, OfTwelveBitsIsCloserThanOfEight) {
  const at::Tensor x = activation_inputs();
  EXPECT_LT(at::abs(rounded("bits: 12", x) - x).max().item<double>(),
            at::abs(rounded("bits: 8", x) - x).max().item<double>() / 8);
}

TEST(InputQuantizer, OfATokenDoesNotSeeTheOthers) {
  const at::Tensor x = activation_inputs(), changed = x.clone();
  changed.select(1, 1).mul_(100);
  for (const int64_t token : {0, 2}) {
    EXPECT_TRUE(at::equal(rounded("bits: 4", x).select(1, token), rounded("bits: 4", changed).select(1, token)));
  }
  EXPECT_FALSE(at::equal(rounded("bits: 4, granularity: per_tensor", x).select(1, 0),
                         rounded("bits: 4, granularity: per_tensor", changed).select(1, 0)));
}

TEST(InputQuantizer, KeepsZerosShapeAndDtype) {
  const at::Tensor zeros = at::zeros({2, 0, kWidth});
  EXPECT_EQ(rounded("bits: 4", zeros).sizes(), zeros.sizes());
  EXPECT_TRUE(at::equal(rounded("bits: 4", at::zeros({2, kWidth})), at::zeros({2, kWidth})));
  EXPECT_EQ(rounded("bits: 4", activation_inputs().to(at::kBFloat16)).scalar_type(), at::kBFloat16);
}

TEST(InputQuantizer, ClipsAtAnAbsoluteValue) {
  const at::Tensor x = at::tensor({-3.0, -0.5, 0.25, 1.0, 8.0}, at::kFloat).reshape({1, 5});
  const at::Tensor found = rounded("bits: 8, clip: {kind: absolute, value: 1}", x);
  EXPECT_TRUE(at::allclose(found, x.clamp(-1, 1), 0, 1.01 / 255)) << found;
}

TEST(InputQuantizer, ClipsAtPercentiles) {
  const at::Tensor x = at::linspace(-50, 50, 101).reshape({1, 101});
  const at::Tensor found = rounded("bits: 12, clip: {kind: percentile, value: 90}", x);
  EXPECT_TRUE(at::allclose(found, x.clamp(-40, 40), 0, 0.02)) << found;
}

TEST(InputQuantizer, RoundsStochasticallyBySeedAndPath) {
  const at::Tensor x = at::rand({1, 2, 4096});
  const at::Tensor found = rounded("bits: 2, rounding: stochastic", x);
  const double step = x.max().item<double>() / 3;
  EXPECT_LT(at::abs(found - x).max().item<double>(), step);
  EXPECT_GT(at::abs(found - x).max().item<double>(), step / 2);
  EXPECT_NEAR((found - x).mean().item<double>(), 0, 5 * step / std::sqrt(4.0 * 8192));
  EXPECT_TRUE(at::equal(rounded("bits: 2, rounding: stochastic", x), found));
  EXPECT_FALSE(at::equal(rounded("bits: 2, rounding: stochastic", x, 2), found));
  EXPECT_FALSE(at::equal(rounded("bits: 2, rounding: stochastic", x, 1, "b"), found));
}

TEST(InputQuantizer, SixteenBitsMakeNone) {
  EXPECT_TRUE(make_input_quantizer(activation_config("{bits: 16}"), "a", kWidth) == nullptr);
}

TEST(InputQuantizer, TheLinearMultipliesWhatItGives) {
  at::manual_seed(22);
  const at::Tensor w = at::randn({5, kWidth});
  WeightConfig config;
  config.group_size = -1;
  const auto format = make_format(config, "a", kWidth);
  QuantizedLinear linear(format, format->encode(w, format->fit(w, {})), {}, 0, at::kFloat);
  const at::Tensor x = activation_inputs();
  linear.quantize_input(make_input_quantizer(activation_config("{bits: 3}"), "a", kWidth));
  EXPECT_TRUE(at::equal(linear.forward(x), at::linear(rounded("bits: 3", x), linear.weight())));
}

// ---- static scales ----

std::shared_ptr<const InputQuantizer> calibrated(const std::string& yaml, const std::vector<at::Tensor>& seen) {
  const auto quantizer = make_input_quantizer(activation_config("{mode: static, " + yaml + "}"), "a", kWidth, 1);
  InputHistogram histogram = quantizer->histogram();
  for (const at::Tensor& x : seen) histogram.add(x);
  return quantizer->calibrated(histogram);
}

// Later inputs take the levels that the range of the calibration inputs makes, also beyond it.
TEST(StaticInputs, TakeTheLevelsOfTheCalibrationText) {
  const std::vector<at::Tensor> seen{activation_inputs() * 0.1, activation_inputs() * 0.2};
  const at::Tensor x = activation_inputs().contiguous();
  struct Grid {
    std::string yaml;
    Slow slow;
    int64_t size;
  };
  for (const auto& [yaml, slow, size] :
       {Grid{"bits: 4, granularity: per_tensor", {.bits = 4}, kWidth},
        Grid{"bits: 8, granularity: per_tensor, symmetry: midrise", {.bits = 8, .symmetry = "midrise"}, kWidth},
        Grid{"bits: 5, granularity: per_tensor, clip: {value: 0.6}, offset: 0.2",
             {.bits = 5, .clip = 0.6, .offset = 0.2},
             kWidth},
        Grid{"bits: 4, granularity: per_group, group_size: 4", {.bits = 4}, 4}}) {
    SCOPED_TRACE(yaml);
    const at::Tensor found = calibrated(yaml, seen)->apply(x).reshape({-1, kWidth});
    const at::Tensor all = at::cat(seen).reshape({-1, kWidth}), flat = x.reshape({-1, kWidth});
    for (int64_t first = 0; first < kWidth; first += size) {
      const double lo = all.narrow(1, first, size).min().item<double>(),
                   hi = all.narrow(1, first, size).max().item<double>();
      for (int64_t t = 0; t < flat.size(0); ++t) {
        for (int64_t j = first; j < first + size; ++j) {
          const double exact = slow.within(lo, hi, flat[t][j].item<double>());
          ASSERT_NEAR(found[t][j].item<double>(), exact, 2e-6 * std::max(hi, -lo)) << t << " " << j;
        }
      }
    }
  }
}

TEST(StaticInputs, ASearchedRangeLosesLessThanMinimumAndMaximum) {
  at::manual_seed(23);
  const at::Tensor x = at::randn({64, kWidth});
  const auto error = [&](const std::string& yaml) {
    const auto quantizer = calibrated("bits: 3, granularity: per_tensor, symmetry: midrise, " + yaml, {x});
    return at::mean(at::square(quantizer->apply(x) - x)).item<double>();
  };
  const double largest = x.abs().max().item<double>();
  double best = 1e9;  // of all shrink factors, on the values themselves
  for (int i = 0; i < 80; ++i) {
    const double reach = largest * (1 - i / 100.0);
    best = std::min(best, error(fmt::format("clip: {{kind: absolute, value: {}}}", reach)));
  }
  const double searched = error("range: mse");
  EXPECT_LT(searched, 0.9 * error("range: minmax"));
  EXPECT_NEAR(searched, best, 0.01 * best) << "bins of a thousandth cost more than a hundredth";
}

TEST(StaticInputs, ClipAtAPercentileOfAllThatWasSeen) {
  const at::Tensor seen = at::linspace(-50, 50, 101 * kWidth).reshape({-1, kWidth});
  const auto quantizer = calibrated("bits: 12, granularity: per_tensor, clip: {kind: percentile, value: 90}", {seen});
  const double step = 80.0 / 4095, bin = 50.0 / 1024;
  EXPECT_TRUE(at::allclose(quantizer->apply(seen), seen.clamp(-40, 40), 0, bin + step));
}

TEST(StaticInputs, OfReplicasAreCalibratedEach) {
  const std::vector<at::Tensor> seen{activation_inputs() * 0.1, activation_inputs() * 0.2};
  const at::Tensor x = activation_inputs();
  const std::string common = "bits: 4, granularity: per_tensor";
  const at::Tensor mean = (calibrated(common + ", clip: {value: 0.7}", seen)->apply(x) +
                           calibrated(common + ", clip: {kind: percentile, value: 90}", seen)->apply(x)) /
                          2;
  const auto both =
      calibrated(common + ", replicas: [{clip: {value: 0.7}}, {clip: {kind: percentile, value: 90}}]", seen);
  EXPECT_TRUE(at::equal(both->apply(x), mean));
  std::vector<std::string> names;
  for (const Parameter& p : both->parameters()) names.push_back(p.name);
  EXPECT_THAT(names, ::testing::ElementsAre("activation_scale", "activation_zero_point", "activation_scale_1",
                                            "activation_zero_point_1"));
}

TEST(StaticInputs, StoreScaleAndZeroInTheLinear) {
  WeightConfig config;
  config.group_size = -1;
  const auto format = make_format(config, "a", kWidth);
  const auto linear_with = [&](const std::string& yaml) {
    auto linear = std::make_unique<QuantizedLinear>(
        format, format->encode(at::ones({5, kWidth}), format->fit(at::ones({5, kWidth}), {})), at::Tensor(), 0,
        at::kFloat);
    if (!yaml.empty()) linear->quantize_input(calibrated(yaml, {activation_inputs()}));
    return linear;
  };
  const auto plain = linear_with(""), asymmetric = linear_with("bits: 8, granularity: per_group, group_size: 4"),
             symmetric = linear_with("bits: 8, granularity: per_tensor, symmetry: span");
  EXPECT_EQ(asymmetric->cost().parameter_bits - plain->cost().parameter_bits, 4 * 2 * 32);
  EXPECT_EQ(symmetric->cost().parameter_bits - plain->cost().parameter_bits, 32);
  std::vector<std::string> names;
  for (const core::State& state : asymmetric->state()) names.push_back(state.name + " " + core::name_of(state.kind));
  EXPECT_THAT(names, ::testing::IsSupersetOf(
                         {"activation_scale activation_scale", "activation_zero_point activation_zero_point"}));
  EXPECT_TRUE(symmetric->named_parameters().contains("activation_scale"));
  EXPECT_FALSE(symmetric->named_parameters()["activation_scale"].requires_grad());
}

// ---- mistakes ----

TEST(Mistakes, OfStaticActivations) {
  const auto config = [](const std::string& yaml) {
    return core::message_of([&] { activation_config("{bits: 8, " + yaml + "}"); });
  };
  EXPECT_EQ(config("mode: static"),
            "test.yaml:1: quant.activation.mode: static scales cannot follow single tokens, and granularity is "
            "per_token. Set granularity: per_tensor or per_group.");
  EXPECT_EQ(config("range: mse"),
            "test.yaml:1: quant.activation.range: mse is searched on the calibration text. Set mode: static.");
  EXPECT_EQ(config("mode: static, granularity: per_tensor, range: mse, clip: {kind: percentile, value: 99}"),
            "test.yaml:1: quant.activation.range: mse and clip.kind: percentile both choose the range. Leave one of "
            "them out.");
  const auto seen = [](const at::Tensor& x) {
    return core::message_of([&] { calibrated("bits: 8, granularity: per_tensor", {x}); });
  };
  EXPECT_EQ(seen(at::zeros({0, kWidth})),
            "a: no calibration token reached it, so it has no static activation scale. Use mode: dynamic.");
  for (const double bad : {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    at::Tensor x = at::ones({2, kWidth});
    x[1][3] = bad;
    EXPECT_EQ(seen(x),
              "a: an input that calibration saw is not finite, so it has no static activation scale. The quantized "
              "blocks before are broken, or float16 overflows.");
  }
}

std::string activation_mistake(const std::string& yaml) {
  return core::message_of([&] { rounded(yaml, activation_inputs()); });
}

TEST(Mistakes, OfActivations) {
  EXPECT_EQ(activation_mistake("bits: 4, granularity: per_group, group_size: 5"),
            "a: activation group_size 5 does not divide 16 input features. Choose a divisor.");
  EXPECT_EQ(activation_mistake("bits: 4, clip: {value: 1.5}"),
            "test.yaml:1: quant.activation.clip.value is a ratio in (0, 1], not 1.5.");
  EXPECT_EQ(activation_mistake("bits: 4, clip: {kind: percentile, value: 0.999}"),
            "test.yaml:1: quant.activation.clip.value is a percentile in (50, 100], not 0.999.");
  EXPECT_EQ(activation_mistake("bits: 1"),
            "test.yaml:1: quant.activation.bits is out of range: 1. Write a number in [2, 16].");
}

}  // namespace
}  // namespace quant
