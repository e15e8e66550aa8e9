// Rotated linears compute what they would without rotation, up to rounding; what is coded has no outliers.
#include "quant/linear/rotation.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/config.h"
#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "quant/qat/trained_linear.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

constexpr int64_t kOut = 48, kIn = 192;

IncoherenceConfig both() {
  IncoherenceConfig config;
  config.hadamard = "both";
  return config;
}

WeightConfig grid(int64_t bits) {
  WeightConfig config;
  config.bits = bits;
  config.incoherence = both();
  return config;
}

std::shared_ptr<QuantizedLinear> coded(const at::Tensor& w, const WeightConfig& config, const at::Tensor& bias = {}) {
  const auto rotation = Rotation::make(config.incoherence, w.size(0), w.size(1), 1);
  const auto format = make_format(config, "m", w.size(1), 1);
  const at::Tensor target = rotation == nullptr ? w : rotation->coded(w);
  auto linear =
      std::make_shared<QuantizedLinear>(format, format->encode(target, format->fit(target, {})), bias, 32, at::kFloat);
  linear->rotate(rotation);
  return linear;
}

double relative_error(const at::Tensor& found, const at::Tensor& wanted) {
  return ((found - wanted).norm() / wanted.norm()).item<double>();
}

TEST(Rotation, IsUndoneByTheProduct) {
  at::manual_seed(1);
  const at::Tensor w = at::randn({kOut, kIn}), x = at::randn({2, 5, kIn});
  for (const char* sides : {"both", "input"}) {
    IncoherenceConfig config = both();
    config.hadamard = sides;
    const auto rotation = Rotation::make(config, kOut, kIn, 7);
    const at::Tensor turned = rotation->coded(w);
    EXPECT_GT(relative_error(turned, w), 0.5);
    EXPECT_LT(relative_error(rotation->original(turned), w), 1e-5);
    const at::Tensor y = rotation->output(at::linear(rotation->input(x), turned));
    EXPECT_LT(relative_error(y, at::linear(x, w)), 1e-5) << sides;
  }
  EXPECT_EQ(Rotation::make({}, kOut, kIn, 7), nullptr);
}

TEST(Rotation, SpreadsAnOutlierOverAllWeights) {
  at::manual_seed(2);
  at::Tensor w = 0.02 * at::randn({kOut, kIn});
  w[3][5] = 4;
  const at::Tensor turned = Rotation::make(both(), kOut, kIn, 1)->coded(w);
  EXPECT_LT(turned.abs().max().item<double>(), 0.2);
}

// In every way that a linear computes: dense, packed, training.
TEST(Rotation, OfAQuantizedLinearIsPartOfIt) {
  at::manual_seed(3);
  const at::Tensor w = at::randn({kOut, kIn}), x = at::randn({3, kIn}), bias = at::randn({kOut});
  const auto linear = coded(w, grid(8), bias);
  const at::Tensor wanted = at::linear(x, w, bias);
  EXPECT_LT(relative_error(linear->weight(), w), 0.01);
  EXPECT_LT(relative_error(linear->forward(x), wanted), 0.01);
  EXPECT_LT(relative_error(linear->forward(x), at::linear(x, linear->weight(), bias)), 1e-5);
  EXPECT_EQ(linear->cost().macs, kOut * kIn + linear->rotation()->macs());
  const FormatFactory same = [](const WeightFormat& format, const WeightConfig& config, int64_t in_features, int64_t) {
    return make_format(config, format.place().path, in_features, format.place().seed);
  };
  TrainedLinear trained(*linear, /*floats_zeros=*/false, same, std::make_shared<TrainingStep>());
  EXPECT_LT(relative_error(trained.forward(x), linear->forward(x)), 1e-5);
  EXPECT_LT(relative_error(trained.finished()->forward(x), linear->forward(x)), 1e-6);
  const at::Tensor dense = linear->forward(x);
  EXPECT_EQ(linear->run_packed({}), "");
  EXPECT_LT(relative_error(linear->forward(x), dense), 1e-5);
}

TEST(Rotation, DependsOnSeedAndWidthAlone) {
  const at::Tensor x = at::ones({kIn});
  const auto a = Rotation::make(both(), kOut, kIn, 1), b = Rotation::make(both(), 2 * kOut, kIn, 1),
             c = Rotation::make(both(), kOut, kIn, 2);
  EXPECT_TRUE(at::equal(a->input(x), b->input(x)));
  EXPECT_FALSE(at::equal(a->input(x), c->input(x)));
  EXPECT_EQ(as_text(*a), as_text(*b)) << "they share statistics";
  EXPECT_NE(as_text(*a), as_text(*c)) << "kept statistics are of one basis";
}

TEST(Rotation, OfWhatCannotBeRotatedIsRefused) {
  const auto mistake = [](const std::string& yaml) {
    QuantConfig config;
    core::bind(core::parse_yaml("{" + yaml + ", weight: {incoherence: {hadamard: both}}}", "a.yaml"), config, "quant");
    return core::message_of([&] { assign(config, *toy::skeleton()); });
  };
  EXPECT_EQ(mistake("method: rtn"), "no error");
  EXPECT_THAT(mistake("method: rtn, rules: [{match: '*lm_head', weight: {bits: 8, incoherence: {hadamard: input}}}]"),
              testing::HasSubstr("lm_head is not rotated"));
  EXPECT_THAT(mistake("method: signround"), testing::HasSubstr("runs the block on weights that are not rotated"));
  EXPECT_THAT(mistake("method: rtn, activation: {bits: 8, mode: static, granularity: per_tensor}"),
              testing::HasSubstr("static inputs have their range before the rotation"));
}

}  // namespace
}  // namespace quant
