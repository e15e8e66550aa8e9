// Token-adaptive scales against the formula in double, one token at a time; what they cost; what they are untrained.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>

#include "quant/grids/draws.h"
#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "quant/method.h"
#include "replication/config.h"
#include "tests/io/support.h"

namespace replication {
namespace {

constexpr int64_t kTokenOut = 24, kTokenIn = 32, kExperts = 3, kTokens = 10;
const quant::Place kTokenAdaptivePlace{"layer", 7};

at::Tensor drawn(const char* purpose, int64_t rows, int64_t columns) {
  return quant::normal_draw(kTokenAdaptivePlace, purpose, 0, rows, columns);
}

quant::WeightConfig weight() {
  quant::WeightConfig config;
  core::bind(core::parse_yaml("{bits: 2, group_size: 16}", "test"), config, "weight");
  return config;
}

std::shared_ptr<quant::QuantizedLinear> linear_with(const std::string& options, const at::Tensor& bias = {}) {
  ReplicationConfig config;
  core::bind(core::parse_yaml("{strategy: token_adaptive, token_adaptive: " + options + "}", "test"), config,
             "replication");
  const auto& strategy = dynamic_cast<const LinearStrategy&>(config.chosen());
  const at::Tensor w = drawn("weights", kTokenOut, kTokenIn);
  const auto initial_format = strategy.initial_format(weight(), kTokenAdaptivePlace, {kTokenOut, kTokenIn});
  const auto format = strategy.format(weight(), kTokenAdaptivePlace, {kTokenOut, kTokenIn});
  quant::Refined refined =
      strategy.refine(w, quant::round_to_nearest(w, *initial_format, {}), {}, *initial_format, *format);
  return std::make_shared<quant::QuantizedLinear>(format, refined.encoded, bias, 32, at::kFloat);
}

std::shared_ptr<quant::QuantizedLinear> plain(const at::Tensor& bias = {}) {
  const auto format = quant::make_format(weight(), kTokenAdaptivePlace.path, kTokenIn);
  return std::make_shared<quant::QuantizedLinear>(
      format, quant::round_to_nearest(drawn("weights", kTokenOut, kTokenIn), *format, {}), bias, 32, at::kFloat);
}

// y = (Σ g_e a_e) ∘ Q ((Σ g_e b_e) ∘ x) + bias.
std::vector<double> slow(const quant::QuantizedLinear& linear, const at::Tensor& x, const at::Tensor& bias) {
  const at::Tensor gate = linear.parameters().at("token_gate").to(at::kDouble),
                   a = linear.parameters().at("row_scale").to(at::kDouble),
                   b = linear.parameters().at("column_scale").to(at::kDouble), q = linear.weight().to(at::kDouble);
  std::vector<double> g(kExperts), scaled(kTokenIn), y(kTokenOut);
  double sum = 0;
  for (int64_t e = 0; e < kExperts; ++e) {
    double logit = 0;
    for (int64_t j = 0; j < kTokenIn; ++j) logit += gate[e][j].item<double>() * x[j].item<double>();
    sum += g[e] = std::exp(logit);
  }
  for (int64_t j = 0; j < kTokenIn; ++j) {
    double factor = 0;
    for (int64_t e = 0; e < kExperts; ++e) factor += g[e] / sum * b[j][e].item<double>();
    scaled[j] = factor * x[j].item<double>();
  }
  for (int64_t i = 0; i < kTokenOut; ++i) {
    double factor = 0, product = 0;
    for (int64_t e = 0; e < kExperts; ++e) factor += g[e] / sum * a[i][e].item<double>();
    for (int64_t j = 0; j < kTokenIn; ++j) product += q[i][j].item<double>() * scaled[j];
    y[i] = factor * product + bias[i].item<double>();
  }
  return y;
}

TEST(TokenAdaptive, ComputesItsFormulaForEveryToken) {
  const at::Tensor bias = drawn("bias", 1, kTokenOut).reshape({kTokenOut}), x = drawn("inputs", kTokens, kTokenIn);
  const auto linear = linear_with("{experts: 3, spread: 0.3, gate_spread: 0.5}", bias);
  const at::Tensor y = linear->forward(x.reshape({2, kTokens / 2, kTokenIn})).reshape({kTokens, kTokenOut});
  for (int64_t t = 0; t < kTokens; ++t) {
    const std::vector<double> expected = slow(*linear, x[t], bias);
    for (int64_t i = 0; i < kTokenOut; ++i) ASSERT_NEAR(y[t][i].item<double>(), expected[i], 1e-5) << t << ", " << i;
  }
}

TEST(TokenAdaptive, IsNoSingleWeight) {
  const auto linear = linear_with("{experts: 3, spread: 0.3, gate_spread: 0.5}");
  const at::Tensor x = drawn("inputs", kTokens, kTokenIn);
  const at::Tensor apart = linear->forward(x) * 2, together = linear->forward(x * 2);
  EXPECT_GT((apart - together).abs().max().item<double>(), 0.01 * apart.abs().max().item<double>());
}

TEST(TokenAdaptive, OfEqualExpertsIsThePlainGridBitForBit) {
  const at::Tensor x = drawn("inputs", kTokens, kTokenIn);
  EXPECT_TRUE(at::equal(linear_with("{experts: 3, spread: 0}")->forward(x), plain()->forward(x)));
}

TEST(TokenAdaptive, IsAboutThePlainGridBeforeTraining) {
  const at::Tensor x = drawn("inputs", kTokens, kTokenIn), y = plain()->forward(x);
  const double difference = (linear_with("{}")->forward(x) - y).abs().max().item<double>();
  EXPECT_GT(difference, 0);
  EXPECT_LT(difference, 0.05 * y.abs().max().item<double>());
}

TEST(TokenAdaptive, BillsExpertsAndGate) {
  const auto linear = linear_with("{experts: 3}");
  EXPECT_EQ(linear->cost().parameter_bits - plain()->cost().parameter_bits, 16 * kExperts * (2 * kTokenIn + kTokenOut));
  EXPECT_EQ(linear->cost().macs, kTokenOut * kTokenIn + kExperts * (kTokenOut + 2 * kTokenIn));
  EXPECT_EQ(linear->codes().hash(), plain()->codes().hash());
}

TEST(TokenAdaptive, InBFloat16StaysNearFloat32) {
  const auto linear = linear_with("{experts: 3, spread: 0.3, gate_spread: 0.5}");
  const auto narrow = std::make_shared<quant::QuantizedLinear>(
      std::shared_ptr<const quant::WeightFormat>(linear, &linear->format()),
      quant::Encoded{linear->codes().unpack(), linear->parameters()}, at::Tensor(), 0, at::kBFloat16);
  const at::Tensor x = drawn("inputs", kTokens, kTokenIn), y = linear->forward(x);
  const at::Tensor found = narrow->forward(x.to(at::kBFloat16));
  EXPECT_EQ(found.scalar_type(), at::kBFloat16);
  EXPECT_LT((found.to(at::kFloat) - y).abs().max().item<double>(), 0.03 * y.abs().max().item<double>());
}

}  // namespace
}  // namespace replication
