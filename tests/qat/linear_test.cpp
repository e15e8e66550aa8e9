// A linear while it is trained: it computes what the quantized one computes, and the gradient of every kind of
// parameter is that of a slow format in double.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "quant/qat/training.h"
#include "tests/qat/support.h"
#include "tests/quant/grid_cases.h"
#include "tests/support/toy_model.h"

namespace quant {
namespace {

constexpr int64_t kO = 6, kI = 16;

// strategy: "" for a plain grid, or "low_rank: {rank: 2}".
std::shared_ptr<const WeightFormat> format_of(const std::string& weight, const std::string& strategy) {
  const Place place{"model.layers.0.mlp.up_proj", 7};
  if (strategy.empty()) return make_format(weight_config(weight), place.path, kI, place.seed);
  const std::string name = strategy.substr(0, strategy.find(':'));
  replication::ReplicationConfig config;
  core::bind(core::parse_yaml("{strategy: " + name + ", " + strategy + "}", "test"), config, "replication");
  return dynamic_cast<const replication::LinearStrategy&>(config.chosen())
      .format(weight_config(weight), place, {kO, kI});
}

Encoded random_weight(const WeightFormat& format) {
  at::manual_seed(3);
  Encoded encoded{at::randint(int64_t{1} << format.code_bits(), {kO, kI}).to(at::kByte), format.layout(kO, kI)};
  for (Parameter& p : encoded.parameters) {
    p.tensor = core::is_codes(p.kind) ? at::randint(int64_t{1} << p.stored_bits, p.shape).to(at::kByte)
                                      : (at::rand(p.shape) + 0.25).to(p.stored_dtype).to(at::kFloat);
  }
  return encoded;
}

std::shared_ptr<QuantizedLinear> quantized(const std::string& weight, const std::string& strategy = "") {
  const auto format = format_of(weight, strategy);
  return std::make_shared<QuantizedLinear>(format, random_weight(*format), at::linspace(-1, 1, kO), 32, at::kFloat);
}

const std::vector<std::pair<std::string, std::string>> kAll{
    {"{bits: 2, group_size: 4}", ""},
    {"{bits: 3, group_size: 8, zero_point: float}", ""},
    {"{bits: 2, group_size: -1, symmetry: midrise, offset: 0.25}", ""},
    {"{bits: 2, group_size: 0, scale_dtype: bfloat16}", ""},
    {"{bits: 2, group_size: 4, scale_bits: 4, scale_group: 2}", ""},
    {"{bits: 2, group_size: 4, codebook: normal_float, offset: 0.5}", ""},
    {"{bits: 2, group_size: 4, zero_point: float}", "low_rank: {rank: 2}"},
    {"{bits: 2, group_size: 4}", "low_rank: {rank: 2}"},
    {"{bits: 2, group_size: -1}", "row_column: {replicas: 2}"},
    {"{bits: 2, group_size: 4}", "row_column: {replicas: 1, group_scale: true}"}};

TEST(TrainedLinear, ComputesWhatTheQuantizedOneComputesAndGivesItBack) {
  for (const auto& [weight, strategy] : kAll) {
    for (const bool floats : {false, true}) {
      SCOPED_TRACE(fmt::format("{} {} {}", weight, strategy, floats));
      const auto before = quantized(weight, strategy);
      TrainedLinear trained(*before, floats, restored_format_factory, std::make_shared<TrainingStep>());
      const at::Tensor x = at::randn({2, 5, kI});
      EXPECT_TRUE(at::allclose(trained.forward(x), before->forward(x), 1e-5, 1e-5));
      EXPECT_TRUE(at::equal(trained.weight(), before->weight()));
      const auto after = trained.finished();
      EXPECT_EQ(after->codes().hash(), before->codes().hash());
      EXPECT_TRUE(at::equal(after->weight(), before->weight()));
      for (const Parameter& p : after->parameters())
        EXPECT_TRUE(at::equal(p.tensor.to(at::kFloat), before->parameters().at(p.name).to(at::kFloat))) << p.name;
    }
  }
}

TEST(TrainedLinear, MakesFloatZeroPointsOfIntegerOnesAndBillsThem) {
  const auto before = quantized("{bits: 2, group_size: 4}");
  const TrainedLinear kept(*before, false, restored_format_factory, std::make_shared<TrainingStep>()),
      floated(*before, true, restored_format_factory, std::make_shared<TrainingStep>());
  EXPECT_FALSE(kept.floated_zeros());
  EXPECT_TRUE(floated.floated_zeros());
  EXPECT_EQ(kept.cost().parameter_bits, before->cost().parameter_bits);
  EXPECT_EQ(floated.cost().parameter_bits, kO * (kI / 4) * (16 + 16));
  EXPECT_EQ(floated.finished()->format().config().zero_point, "float");
}

TEST(TrainedLinear, ComputesWithTheRoundedParameters) {
  const auto before = quantized("{bits: 2, group_size: 4, zero_point: float}");
  TrainedLinear trained(*before, false, restored_format_factory, std::make_shared<TrainingStep>());
  for (core::State& state : trained.state()) {
    if (state.kind == core::Kind::scale) state.tensor.add_(1e-5);  // between two numbers of float16
  }
  const at::Tensor x = at::randn({3, kI});
  const auto after = trained.finished();
  EXPECT_TRUE(at::allclose(trained.forward(x), after->forward(x), 1e-6, 1e-6));
  const at::Tensor scale = after->parameters().at("scale");
  EXPECT_TRUE(at::equal(scale, scale.to(at::kHalf).to(at::kFloat))) << "what is measured is what is stored";
}

// ---- gradients of every kind ----

using Wide = std::map<std::string, at::Tensor>;  // parameters in double, by name

at::Tensor grouped(const at::Tensor& per_group, int64_t groups) {  // [O, G] or [1, 1] -> [O, I]
  return per_group.unsqueeze(-1)
      .expand({per_group.size(0), groups, per_group.size(0) == 1 ? kO * kI : kI / groups})
      .reshape({-1, per_group.size(0) == 1 ? kO * kI : kI})
      .reshape({kO, kI});
}

// The weight in double, written out per format.
at::Tensor slow(const WeightFormat& format, const at::Tensor& codes, const Parameters& like, const Wide& p) {
  const at::Tensor k = codes.to(at::kDouble);
  const WeightConfig& config = format.config();
  const auto has = [&](const char* name) { return p.contains(name); };
  const at::Tensor offset = has("offset") ? p.at("offset") : at::zeros({1}, at::kDouble);
  at::Tensor scale = at::ones({kO, kI}, at::kDouble);
  if (has("scale")) scale = grouped(p.at("scale"), p.at("scale").size(1));
  if (has("super_scale")) {
    const at::Tensor q = like.at("scale_codes").to(at::kDouble) + 1;
    scale = grouped(p.at("super_scale").repeat_interleave(config.scale_group, 1) * q, q.size(1));
  }
  if (format.name() == "row_column") return (k - 1.5) * at::mm(p.at("row_scale"), p.at("column_scale").t()) * scale;
  if (has("table")) return scale * (p.at("table").index({codes.to(at::kLong)}) + offset);
  at::Tensor zero = at::full({kO, kI}, 1.5, at::kDouble);
  if (has("zero_point")) zero = grouped(p.at("zero_point"), p.at("zero_point").size(1));
  const at::Tensor grid = scale * (k - zero + offset);
  return has("low_rank_a") ? grid + at::mm(p.at("low_rank_b"), p.at("low_rank_a")) : grid;
}

TEST(TrainedLinear, GivesEveryKindTheGradientOfFiniteDifferencesInDouble) {
  std::set<core::Kind> seen;
  for (auto [weight, strategy] : kAll) {
    SCOPED_TRACE(weight + " " + strategy);
    const auto before = quantized(weight, strategy);
    TrainedLinear trained(*before, /*floats_zeros=*/true, restored_format_factory, std::make_shared<TrainingStep>());
    const at::Tensor x = at::randn({5, kI}), upstream = at::randn({5, kO});
    for (core::State& state : trained.state()) {
      if (!core::is_codes(state.kind)) state.tensor.set_requires_grad(true);
    }
    (trained.forward(x) * upstream).sum().backward();
    const WeightFormat& format = trained.finished()->format();
    const at::Tensor codes = before->codes().unpack();
    Wide values;
    for (const core::State& state : trained.state()) {
      if (!core::is_codes(state.kind)) values[state.name] = state.tensor.detach().to(at::kDouble);
    }
    const auto loss = [&](const Wide& p) {
      const at::Tensor w = slow(format, codes, before->parameters(), p);
      return at::sum(at::mm(x.to(at::kDouble), w.t()) * upstream).item<double>();
    };
    for (const core::State& state : trained.state()) {
      if (core::is_codes(state.kind) || state.kind == core::Kind::bias) continue;
      seen.insert(state.kind);
      ASSERT_TRUE(state.tensor.grad().defined()) << state.name;
      const double size = state.tensor.grad().abs().max().item<double>();
      for (int64_t i = 0; i < state.tensor.numel(); ++i) {
        Wide above = values, below = values;
        above[state.name] = values[state.name].clone();
        below[state.name] = values[state.name].clone();
        above[state.name].view({-1})[i] += 1e-4;
        below[state.name].view({-1})[i] -= 1e-4;
        EXPECT_NEAR(state.tensor.grad().reshape({-1})[i].item<double>(), (loss(above) - loss(below)) / 2e-4,
                    1e-5 * size)
            << state.name << " " << i;
      }
    }
  }
  using core::Kind;
  EXPECT_THAT(seen, ::testing::ElementsAre(Kind::scale, Kind::zero_point, Kind::offset, Kind::table, Kind::low_rank,
                                           Kind::row_scale, Kind::column_scale));
}

// ---- noise ----

TEST(TrainedLinear, DrawsNoiseAnewInEveryStepAndNoneBetween) {
  for (const char* weight : {"{bits: 2, group_size: 4, zero_point: float, noise: {sigma: 0.5, at: train}}",
                             "{bits: 2, group_size: 4, codebook: normal_float, noise: {sigma: 0.5, at: train}}"}) {
    SCOPED_TRACE(weight);
    const auto before = quantized(weight);
    const auto moment = std::make_shared<TrainingStep>();
    TrainedLinear trained(*before, false, restored_format_factory, moment);
    const at::Tensor x = at::randn({3, kI}), plain = before->forward(x);
    const auto at_step = [&](int64_t step, bool training) {
      *moment = {step, training};
      return trained.forward(x);
    };
    EXPECT_TRUE(at::allclose(at_step(1, false), plain, 1e-5, 1e-5));
    const at::Tensor first = at_step(1, true), second = at_step(2, true);
    EXPECT_TRUE(at::equal(at_step(1, true), first));
    EXPECT_GT((first - plain).abs().max().item<double>(), 0.05);
    EXPECT_GT((second - first).abs().max().item<double>(), 0.05);
    const at::Tensor change = (first - plain).detach();
    const at::Tensor scale = before->parameters().at("scale");
    const at::Tensor draw = TrainNoise{before->format().place(), 1, 0.5}.draw(kO, kI);
    const at::Tensor noise = draw.reshape({kO, 4, 4}) * scale.unsqueeze(-1);
    EXPECT_TRUE(at::allclose(change, at::linear(x, noise.reshape({kO, kI})), 1e-4, 1e-4)) << "sigma · s · N(0, 1)";
  }
}

}  // namespace
}  // namespace quant
