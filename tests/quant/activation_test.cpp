// Quantized inputs against plain loops in double, the three ways to clip, and what a linear does with them.
#include "quant/activation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/quantized_linear.h"
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

at::Tensor inputs() {
  at::manual_seed(21);
  return at::randn({kBatch, kTokens, kWidth}) * at::tensor({1.0, 10.0, 0.01}, at::kFloat).reshape({1, kTokens, 1});
}

// ---- the definition, one group of values at a time ----

struct Slow {
  double bits, clip = 1, offset = 0;
  std::string symmetry = "asymmetric";

  std::vector<double> operator()(const std::vector<double>& x) const {
    double lo = 0, hi = 0;
    for (const double v : x) lo = std::min(lo, v), hi = std::max(hi, v);
    lo *= clip, hi *= clip;
    const double top = std::pow(2.0, bits) - 1, largest = std::max(hi, -lo);
    const bool asymmetric = symmetry == "asymmetric";
    const double scale = asymmetric ? (hi - lo) / top : 2 * largest / top;
    const double zero = asymmetric ? std::nearbyint(-lo / scale) : top / 2;
    std::vector<double> out;
    for (const double v : x) {
      const double code = std::clamp(std::nearbyint(v / scale + zero - offset), 0.0, top);
      out.push_back(scale * (code - zero + offset));
    }
    return out;
  }
};

// Values of a group are consecutive: S of them, or all.
void expect_as_slow(const std::string& yaml, const Slow& slow, int64_t size) {
  SCOPED_TRACE(yaml);
  const at::Tensor x = inputs().contiguous(), found = rounded(yaml, x).contiguous();
  const auto *values = x.const_data_ptr<float>(), *quantized = found.const_data_ptr<float>();
  for (int64_t first = 0; first < x.numel(); first += size) {
    const std::vector<double> group(values + first, values + first + size), exact = slow(group);
    double largest = 0;
    for (const double v : group) largest = std::max(largest, std::abs(v));
    for (int64_t j = 0; j < size; ++j) ASSERT_NEAR(quantized[first + j], exact[j], 2e-6 * largest) << first + j;
  }
}

TEST(InputQuantizer, IsWhatPlainLoopsInDoubleGive) {
  expect_as_slow("bits: 8", {.bits = 8}, kWidth);
  expect_as_slow("bits: 2", {.bits = 2}, kWidth);
  expect_as_slow("bits: 4, granularity: per_group, group_size: 4", {.bits = 4}, 4);
  expect_as_slow("bits: 6, granularity: per_tensor", {.bits = 6}, kBatch * kTokens * kWidth);
  expect_as_slow("bits: 5, clip: {value: 0.7}", {.bits = 5, .clip = 0.7}, kWidth);
  expect_as_slow("bits: 4, offset: 0.3", {.bits = 4, .offset = 0.3}, kWidth);
  expect_as_slow("bits: 3, symmetry: midrise", {.bits = 3, .symmetry = "midrise"}, kWidth);
}

TEST(InputQuantizer, OfTwelveBitsIsCloserThanOfEight) {
  const at::Tensor x = inputs();
  EXPECT_LT(at::abs(rounded("bits: 12", x) - x).max().item<double>(),
            at::abs(rounded("bits: 8", x) - x).max().item<double>() / 8);
}

TEST(InputQuantizer, OfATokenDoesNotSeeTheOthers) {
  const at::Tensor x = inputs(), changed = x.clone();
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
  EXPECT_EQ(rounded("bits: 4", inputs().to(at::kBFloat16)).scalar_type(), at::kBFloat16);
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
  const auto decoder = make_decoder(config, "a", kWidth);
  QuantizedLinear linear(decoder, decoder->encode(w, decoder->fit(w, {})), {}, 0, at::kFloat);
  const at::Tensor x = inputs();
  linear.quantize_input(make_input_quantizer(activation_config("{bits: 3}"), "a", kWidth));
  EXPECT_TRUE(at::equal(linear.forward(x), at::linear(rounded("bits: 3", x), linear.weight())));
}

// ---- mistakes ----

std::string mistake(const std::string& yaml) {
  return core::message_of([&] { rounded(yaml, inputs()); });
}

TEST(Mistakes, OfActivations) {
  EXPECT_EQ(mistake("bits: 4, granularity: per_group, group_size: 5"),
            "a: activation group_size 5 does not divide 16 input features. Choose a divisor.");
  EXPECT_EQ(mistake("bits: 4, clip: {value: 1.5}"),
            "test.yaml:1: quant.activation.clip.value is a ratio in (0, 1], not 1.5.");
  EXPECT_EQ(mistake("bits: 4, clip: {kind: percentile, value: 0.999}"),
            "test.yaml:1: quant.activation.clip.value is a percentile in (50, 100], not 0.999.");
  EXPECT_EQ(mistake("bits: 1"), "test.yaml:1: quant.activation.bits is out of range: 1. Write a number in [2, 16].");
}

}  // namespace
}  // namespace quant
