// What calibration finds out about inputs, against plain loops in double, and when in the walk it looks.
#include "quant/calibration/calibration.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/linear/quantized_linear.h"
#include "quant/stage/quantize.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

// Inputs of the first block: batches of different sizes.
core::HiddenStore hidden_inputs(core::Model& model) {
  core::HiddenStore hidden(3);
  for (int64_t i = 0; i < 3; ++i) hidden.put(i, model.embed(toy::ids(2, 4 + i) + 0));
  return hidden;
}

// ---- Accumulator ----

TEST(Accumulator, IsTheMeanOverAllTokensInDouble) {
  at::manual_seed(2);
  constexpr int64_t I = 24;
  const std::vector<at::Tensor> batches{at::randn({2, 9, I}), at::randn({1, 5, I}) * 3, at::randn({7, I}) + 1};
  Accumulator sum({.hessian = true});
  for (const at::Tensor& x : batches) sum.add(x);
  const Statistics found = sum.result();
  std::vector<double> h(I * I), absmax(I);
  double tokens = 0, m1 = 0, m2 = 0, fourth = 0;
  const auto each = [&](const auto& use) {
    for (const at::Tensor& x : batches) {
      const at::Tensor rows = x.reshape({-1, I}).contiguous();
      for (int64_t t = 0; t < rows.size(0); ++t) use(rows.const_data_ptr<float>() + t * I);
    }
  };
  each([&](const float* x) {
    ++tokens;
    for (int64_t i = 0; i < I; ++i) {
      for (int64_t j = 0; j < I; ++j) h[i * I + j] += double{x[i]} * x[j];
      absmax[i] = std::max<double>(absmax[i], std::abs(x[i]));
      m1 += x[i];
      m2 += double{x[i]} * x[i];
    }
  });
  const double mean = m1 / (tokens * I), variance = m2 / (tokens * I) - mean * mean;
  each([&](const float* x) {
    for (int64_t i = 0; i < I; ++i) fourth += std::pow(x[i] - mean, 4) / (tokens * I);
  });
  EXPECT_EQ(found.tokens, 30);
  for (int64_t i = 0; i < I; ++i) {
    for (int64_t j = 0; j < I; ++j) EXPECT_NEAR(found.hessian[i][j].item<double>(), h[i * I + j] / tokens, 1e-5);
    EXPECT_NEAR(found.mean_square[i].item<double>(), h[i * I + i] / tokens, 1e-5);
    EXPECT_EQ(found.absmax[i].item<double>(), absmax[i]);
  }
  EXPECT_NEAR(found.kurtosis, fourth / (variance * variance), 1e-4);
  EXPECT_DOUBLE_EQ(found.shape().absmax, *std::max_element(absmax.begin(), absmax.end()));
}

TEST(Accumulator, KeepsAHessianOnlyWhenAsked) {
  Accumulator sum({.mean_square = true});
  sum.add(at::ones({2, 3}));
  EXPECT_FALSE(sum.result().hessian.defined());
  EXPECT_TRUE(at::equal(sum.result().mean_square, at::ones({3})));
}

// ---- collect ----

TEST(Collect, SeesTheInputsOfEachSlotAndLeavesTheBlockAsItWas) {
  toy::Toy toy;
  toy.load_blocks();
  const core::HiddenStore hidden = hidden_inputs(*toy.model);
  core::Block& block = toy.model->block(0);
  const auto up = toy.slot(0).pointer(), down = toy.slot(1).pointer();
  const auto found = collect(block, {}, hidden, {{&toy.slot(0), {.hessian = true}}, {&toy.slot(1), {.absmax = true}}});
  EXPECT_EQ(toy.slot(0).pointer(), up);
  EXPECT_EQ(toy.slot(1).pointer(), down);
  EXPECT_EQ(found[0].tokens, 30);
  EXPECT_EQ(found[0].hessian.size(0), toy::kWidth);
  EXPECT_FALSE(found[1].hessian.defined());
  EXPECT_EQ(found[1].absmax.size(0), toy::kFfn);
  at::Tensor largest = at::zeros({toy::kFfn});
  const auto watch = [&](const at::Tensor& x) {
    largest = at::maximum(largest, x.reshape({-1, toy::kFfn}).abs().amax(0));
  };
  toy.slot(1).put(std::make_shared<core::RecordingLinear>(down, watch));
  for (int64_t i = 0; i < 3; ++i) block.forward(hidden.get(i), {});
  EXPECT_TRUE(at::equal(found[1].absmax, largest));
}

// ---- in the walk ----

struct Ran {
  std::vector<std::string> hashes;
  std::vector<ModuleReport> reports;
};

Ran run(const std::string& yaml, const Calibration& calibration = {}) {
  toy::Toy toy;
  core::HiddenStore hidden = hidden_inputs(*toy.model);
  const QuantConfig config = quant_config(yaml);
  Quantize stage(config.methods.at(config.method).share(), config.method, assign(config, *toy.model), calibration);
  toy.walk({&stage}, {.full = calibration.propagate_error ? nullptr : &hidden,
                      .quantized = calibration.propagate_error ? &hidden : nullptr});
  Ran ran{{}, stage.reports()};
  for (core::Slot* slot : toy.model->slots())
    ran.hashes.push_back(dynamic_cast<const QuantizedLinear&>(slot->linear()).codes().hash());
  return ran;
}

const char* const kGptq = "{method: gptq, weight: {bits: 2, group_size: 32}}";

TEST(Collect, SparesTheProductsThatNoTapSees) {
  toy::Toy toy;
  toy.load_blocks();
  core::Block& block = toy.model->block(0);
  const core::HiddenStore hidden = hidden_inputs(*toy.model);
  core::Slot &up = *block.slots()[0], &down = *block.slots()[1];
  int64_t runs = 0;
  const auto counted = std::make_shared<core::RecordingLinear>(down.pointer(), [&](const at::Tensor&) { ++runs; });
  down.put(counted);
  collect(block, {}, hidden, {{&up, {.hessian = true}}});
  EXPECT_EQ(runs, 0) << "the outputs of down_proj go nowhere";
  EXPECT_EQ(down.pointer(), counted);
  const Statistics seen = collect(block, {}, hidden, {{&up, {}}, {&down, {.mean_abs = true}}}).back();
  at::Tensor sum = at::zeros({toy::kFfn});
  down.put(std::make_shared<core::RecordingLinear>(counted, [&](const at::Tensor& x) {
    sum += x.abs().sum(at::IntArrayRef{0, 1});
  }));
  for (int64_t i = 0; i < hidden.batches(); ++i) block.forward(hidden.get(i), {});
  EXPECT_LT((seen.mean_abs - sum / seen.tokens).abs().max().item<double>(), 1e-6) << "up_proj's products are needed";
}

TEST(Calibrated, MemoryForHessiansChangesNoBit) {
  const Ran all = run(kGptq), one = run(kGptq, {.hessian_bytes = 1});
  EXPECT_EQ(all.hashes, one.hashes);
  EXPECT_EQ(all.reports[3].output_error, one.reports[3].output_error);
}

TEST(Calibrated, InputsAreThoseOfTheQuantizedPrefixUnlessAskedOtherwise) {
  const Ran quantized = run(kGptq), full = run(kGptq, {.propagate_error = false});
  EXPECT_EQ(quantized.hashes[0], full.hashes[0]);  // nothing is quantized before the first block
  EXPECT_NE(quantized.hashes[2], full.hashes[2]);
}

TEST(Calibrated, StatisticsInFullPrecisionAreMeasuredOnceForAllBits) {
  const core::Scratch scratch;
  const auto with_bits = [&](int64_t bits, int64_t found, int64_t kept) {
    StatisticsStore store(core::Cache(scratch.file("cache")), {"statistics", StatisticsStore::kVersion, "toy\n"});
    const std::string yaml = fmt::format("{{method: gptq, weight: {{bits: {}, group_size: 32}}}}", bits);
    const Ran fresh = run(yaml, {.propagate_error = false});
    EXPECT_EQ(run(yaml, {.propagate_error = false, .store = &store}).hashes, fresh.hashes);
    EXPECT_EQ(store.found(), found);
    EXPECT_EQ(store.kept(), kept);
  };
  with_bits(2, 0, 2 * toy::kLayers);
  with_bits(3, 2 * toy::kLayers, 0);
}

TEST(Calibrated, TrueSequentialMeasuresBehindTheQuantizedLinearsOfItsOwnBlock) {
  const Ran together = run(kGptq);
  const Ran sequential = run(kGptq, {.true_sequential = true});
  EXPECT_EQ(together.hashes[0], sequential.hashes[0]);
  EXPECT_NE(together.hashes[1], sequential.hashes[1]);
}

TEST(Calibrated, ReportsTheOutputErrorAndTheShapeOfInputs) {
  const Ran gptq = run(kGptq), rtn = run("{method: rtn, weight: {bits: 2, group_size: 32}}");
  for (size_t i = 0; i < gptq.reports.size(); ++i) {
    const ModuleReport& report = gptq.reports[i];
    ASSERT_TRUE(report.output_error.has_value() && report.input.has_value());
    EXPECT_GT(*report.output_error, 0);
    EXPECT_LT(*report.output_error, report.weight_error);
    EXPECT_GT(report.input->absmax, 0);
    EXPECT_FALSE(rtn.reports[i].output_error.has_value() || rtn.reports[i].input.has_value());
  }
}

TEST(Calibrated, WeightsSeeTheInputsAsTheyAreQuantized) {
  const Ran plain = run(kGptq);
  const Ran coarse = run("{method: gptq, weight: {bits: 2, group_size: 32}, activation: {bits: 2}}");
  EXPECT_NE(plain.reports[0].input->kurtosis, coarse.reports[0].input->kurtosis);
  EXPECT_NE(plain.hashes[0], coarse.hashes[0]);
}

TEST(Calibrated, StaticScalesAreThoseOfTheInputsInFullPrecisionOrBehindQuantizedBlocks) {
  const char* yaml =
      "{method: rtn, weight: {bits: 2, group_size: 32}, activation: {bits: 6, mode: static, granularity: per_tensor, "
      "symmetry: span}}";
  const auto scales = [&](bool propagates) {
    toy::Toy toy;
    core::HiddenStore hidden = hidden_inputs(*toy.model);
    const QuantConfig config = quant_config(yaml);
    Quantize stage(config.methods.at("rtn").share(), "rtn", assign(config, *toy.model),
                   {.propagate_error = propagates});
    EXPECT_TRUE(stage.reads_stream(*toy.model));
    toy.walk({&stage}, {.full = propagates ? nullptr : &hidden, .quantized = propagates ? &hidden : nullptr});
    std::vector<double> all;
    for (core::Slot* slot : toy.model->slots()) {
      const auto& linear = dynamic_cast<const QuantizedLinear&>(slot->linear());
      all.push_back(linear.input()->parameters().at("activation_scale").item<double>());
    }
    return all;
  };
  toy::Toy dense;
  dense.load_blocks();
  core::HiddenStore hidden = hidden_inputs(*dense.model);
  const auto first = collect(dense.model->block(0), {}, hidden, {{&dense.slot(0), {.absmax = true}}});
  const std::vector<double> quantized = scales(true), full = scales(false);
  EXPECT_FLOAT_EQ(quantized[0], 2 * first[0].absmax.max().item<double>() / 63);
  EXPECT_EQ(quantized[0], full[0]);
  EXPECT_NE(quantized[2], full[2]);
}

TEST(Calibrated, WeightsSeeTheInputsAsStaticScalesLeaveThem) {
  const std::string weight = "weight: {bits: 2, group_size: 32}",
                    activation = "activation: {bits: 3, mode: static, granularity: per_tensor}";
  const Ran plain = run("{method: gptq, " + weight + "}"),
            coarse = run("{method: gptq, " + weight + ", " + activation + "}");
  EXPECT_NE(plain.reports[0].input->kurtosis, coarse.reports[0].input->kurtosis);
  EXPECT_NE(plain.hashes[0], coarse.hashes[0]);
}

TEST(Calibrated, ARangeByImportanceIsMeasuredForRtnToo) {
  const Ran mse = run("{method: rtn, weight: {bits: 2, group_size: 32, range: mse}}");
  const Ran importance = run("{method: rtn, weight: {bits: 2, group_size: 32, range: importance}}");
  EXPECT_NE(mse.hashes[1], importance.hashes[1]);
  EXPECT_TRUE(importance.reports[1].input.has_value());
  EXPECT_FALSE(importance.reports[1].output_error.has_value());
}

}  // namespace
}  // namespace quant
