// SignRound on a block of two linears: the gradient steps against a derivative by hand in double, the block's error
// against rounding to nearest, and what its gradients rest on: that they pass through every block and every grid.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>

#include <cmath>

#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "models/registry.h"
#include "quant/grids/affine.h"
#include "quant/linear/quantized_linear.h"
#include "quant/stage/quantize.h"
#include "tests/quant/grid_cases.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

using core::message_of;
using ::testing::StartsWith;

// ---- gradients through a real block ----

// A linear whose weight wants a gradient.
class Trained : public core::Linear {
 public:
  explicit Trained(const std::shared_ptr<core::Linear>& inner)
      : Linear(inner->out_features(), inner->in_features()), inner_(inner), w(inner->weight().clone()) {}
  at::Tensor forward(const at::Tensor& x) override { return at::linear(x, w, bias()); }
  at::Tensor weight() const override { return w; }
  at::Tensor bias() const override { return inner_->bias(); }
  std::vector<core::State> state() const override { return {}; }
  core::Cost cost() const override { return {}; }

 private:
  std::shared_ptr<core::Linear> inner_;

 public:
  at::Tensor w;
};

TEST(Gradients, OfEveryLinearPassThroughABlockAsDifferencesSay) {
  const std::string directory = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";
  const auto model = models::build(core::read_hf_config(directory));
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), at::kFloat,
                              at::kCPU);
  core::Block& block = model->block(1);
  core::load(block, weights);
  at::manual_seed(2);
  const at::Tensor x = at::randn({2, 9, model->shape().width}), target = at::randn_like(x);
  const auto loss = [&] { return at::square(block.forward(x, {}) - target).mean(); };
  for (core::Slot* slot : block.slots()) {
    const auto before = slot->pointer();
    const auto trained = std::make_shared<Trained>(before);
    slot->put(trained);
    trained->w.set_requires_grad(true);
    loss().backward();
    const at::Tensor gradient = trained->w.grad().clone();
    trained->w.set_requires_grad(false);
    const at::Tensor direction = gradient / gradient.norm(), start = trained->w.clone();
    const double step = 0.02;
    trained->w.copy_(start + step * direction);
    const double above = loss().item<double>();
    trained->w.copy_(start - step * direction);
    const double below = loss().item<double>(), expected = gradient.norm().item<double>();
    EXPECT_GT(expected, 0) << slot->path();
    EXPECT_NEAR((above - below) / (2 * step), expected, 0.02 * expected) << slot->path();
    slot->put(before);
  }
}

// ---- gradients through a grid ----

const std::vector<std::string>& signround_variables() {
  static const std::vector<std::string> all{
      "symmetry: asymmetric",        "zero_point: float, offset: 0.25",      "symmetry: narrow",
      "symmetry: span, range: mse",  "symmetry: signed_full, scale_bits: 4", "symmetry: noclip, scale_dtype: bfloat16",
      "symmetry: midrise, clip: 0.7"};
  return all;
}

TEST(Gradients, OfAGridWithoutANudgeItsWeightsAreTheDecodedOnes) {
  for_all(cases({2, 4}, {4, -1, 0}, signround_variables()), [](const Case& c) {
    const auto format = format_of(c.config);
    const auto& grid = dynamic_cast<const AffineGrid&>(*format);
    const at::Tensor made = grid.trainable(c.w, grid.range_of(c.w, {}), at::zeros_like(c.w));
    const double largest = c.w.abs().max().item<double>();
    EXPECT_LE((made - approximation(*format, c.w)).abs().max().item<double>(), 1e-5 * largest + 1e-9);
  });
}

// ∂ŵ/∂V = s where the code is inside the grid, 0 where it is clamped. A signed scale keeps its sign.
TEST(Gradients, OfTheNudgeAreTheStepInsideTheGridAndZeroOutside) {
  for (const std::string& further : signround_variables()) {
    SCOPED_TRACE(further);
    const std::string clip = further.find("clip: ") == std::string::npos ? "clip: 0.5, " : "";
    const WeightConfig config = weight_config("{bits: 3, group_size: 4, " + clip + further + "}");
    const auto format = format_of(config);
    const auto& grid = dynamic_cast<const AffineGrid&>(*format);
    const at::Tensor w = named_data()[4].second, nudge = at::zeros_like(w).set_requires_grad(true);
    const Range range = grid.range_of(w, {});
    grid.trainable(w, range, nudge).sum().backward();
    const ElementGrid levels = grid.element_grid(grid.parameters_of(range, w), kCaseRows, kCaseColumns);
    const at::Tensor position = w.reshape({kCaseRows, -1, 4}) / levels.scale.unsqueeze(-1) + levels.shift.unsqueeze(-1);
    const at::Tensor inside = (at::round(position) >= 0).logical_and(at::round(position) <= 7);
    const at::Tensor expected = (levels.scale.unsqueeze(-1) * inside).reshape(w.sizes());
    EXPECT_TRUE(at::allclose(nudge.grad(), expected)) << nudge.grad() << expected;
    EXPECT_LT(inside.sum().item<int64_t>(), w.numel()) << "a narrow range leaves some outside";
  }
}

// ---- the method on a block ----

class SignRound : public ::testing::Test {
 protected:
  static constexpr int64_t kBatches = 4, kWindows = 3, kTokens = 8;

  SignRound() : full_(kBatches), inputs_(kBatches) {
    toy_.load_blocks();
    at::manual_seed(23);
    for (int64_t i = 0; i < kBatches; ++i) {
      full_.put(i, at::randn({i + 1 < kBatches ? kWindows : 1, kTokens, toy::kWidth}));
      inputs_.put(i, full_.get(i) + 0.1 * at::randn_like(full_.get(i)));
    }
  }

  std::vector<Target> targets_of(const QuantConfig& config, uint64_t seed = 1) {
    std::vector<Target> targets;
    for (const Assignment& a : assign(config, *toy_.model, seed)) {
      const bool first = a.slot == &toy_.slot(0) || a.slot == &toy_.slot(1);
      if (first && a.format) targets.push_back({a.slot, a.format, a.input});
    }
    return targets;
  }

  std::vector<Quantized> quantized(const QuantConfig& config, uint64_t seed = 1) {
    at::NoGradGuard no_gradient;
    const core::Streams streams{.full = &full_, .quantized = &inputs_};
    core::BlockContext context{*toy_.model, toy_.model->block(0), 0, 0, streams};
    return config.methods.at(config.method)->quantize(context, targets_of(config, seed));
  }
  std::vector<Quantized> quantized(const std::string& yaml, uint64_t seed = 1) {
    return quantized(quant_config(yaml), seed);
  }

  // Mean square of the change of the block's outputs, in double.
  double loss(const QuantConfig& config, const std::vector<Quantized>& results, bool same = false) {
    at::NoGradGuard no_gradient;
    const std::vector<Target> targets = targets_of(config);
    std::vector<std::shared_ptr<core::Linear>> before;
    std::vector<at::Tensor> wanted;
    for (int64_t i = 0; i < kBatches; ++i)
      wanted.push_back(toy_.model->block(0).forward((same ? inputs_ : full_).get(i), {}));
    for (size_t i = 0; i < targets.size(); ++i) {
      before.push_back(targets[i].slot->pointer());
      const auto linear = std::make_shared<QuantizedLinear>(targets[i].format, results[i].encoded,
                                                            before.back()->bias(), 32, at::kFloat);
      linear->quantize_input(targets[i].input);
      targets[i].slot->put(linear);
    }
    double sum = 0, values = 0;
    for (int64_t i = 0; i < kBatches; ++i) {
      const at::Tensor made = toy_.model->block(0).forward(inputs_.get(i), {});
      sum += (made.to(at::kDouble) - wanted[i].to(at::kDouble)).square().sum().item<double>();
      values += static_cast<double>(made.numel());
    }
    for (size_t i = 0; i < targets.size(); ++i) targets[i].slot->put(before[i]);
    return sum / values;
  }
  double loss(const std::string& yaml, bool same = false) {
    const QuantConfig config = quant_config(yaml);
    return loss(config, quantized(config), same);
  }

  static std::string yaml(const std::string& options, const std::string& weight, const std::string& more = "") {
    return "{method: signround, signround: {" + options + "}, weight: {" + weight + "}" + more + "}";
  }
  static std::string rtn(const std::string& weight, const std::string& more = "") {
    return "{method: rtn, weight: {" + weight + "}" + more + "}";
  }
  static bool equal(const std::vector<Quantized>& a, const std::vector<Quantized>& b) {
    for (size_t i = 0; i < a.size(); ++i) {
      if (!at::equal(a[i].encoded.codes, b[i].encoded.codes)) return false;
      for (size_t p = 0; p < a[i].encoded.parameters.size(); ++p) {
        if (!at::equal(a[i].encoded.parameters[p].tensor, b[i].encoded.parameters[p].tensor)) return false;
      }
    }
    return a.size() == b.size();
  }

  toy::Toy toy_;
  core::HiddenStore full_, inputs_;
};

TEST_F(SignRound, ChangesTheOutputsOfTheBlockLessThanRoundingToNearest) {
  for (const std::string& further : signround_variables()) {
    for (const char* bits : {"bits: 2, group_size: 32, ", "bits: 4, group_size: -1, ", "bits: 3, group_size: 0, "}) {
      const std::string grid = bits + further;
      EXPECT_LT(loss(yaml("iterations: 60, targets: same", grid), true), 0.8 * loss(rtn(grid), true)) << grid;
    }
  }
}

TEST_F(SignRound, TakesQuantizedInputsIntoAccount) {
  const char *grid = "bits: 2, group_size: 32", *inputs = ", activation: {bits: 4}";
  EXPECT_LT(loss(yaml("iterations: 60", grid, inputs)), 0.8 * loss(rtn(grid, inputs)));
}

TEST_F(SignRound, IsNeverWorseThanRoundingToNearest) {
  const char* grid = "bits: 2, group_size: 32";
  const double nearest = loss(rtn(grid)), slack = 1e-5 * nearest;
  for (const char* options : {"iterations: 1, lr: 1, minmax_lr: 1", "iterations: 3, lr: 1, batch: 1",
                              "iterations: 5, minmax_lr: 0.9", "iterations: 40, batch: 2, tune_range: false"})
    EXPECT_LE(loss(yaml(options, grid)), nearest + slack) << options;
}

TEST_F(SignRound, TrainingTheRangesTooChangesTheOutputsLess) {
  const char* grid = "bits: 2, group_size: 32, range: minmax";
  EXPECT_LT(loss(yaml("", grid)), loss(yaml("tune_range: false", grid)));
}

TEST_F(SignRound, IsTrainedForTheTargetsThatItIsTold) {
  const char* grid = "bits: 2, group_size: 32";
  EXPECT_LT(loss(yaml("targets: same", grid), true), loss(yaml("targets: full", grid), true));
  EXPECT_LT(loss(yaml("targets: full", grid), false), loss(yaml("targets: same", grid), false));
}

TEST_F(SignRound, WithoutAStepIsRoundingToNearestBitForBit) {
  for (const std::string& further : signround_variables()) {
    const std::string grid = "bits: 3, group_size: 32, " + further;
    EXPECT_TRUE(equal(quantized(yaml("iterations: 0", grid)), quantized(rtn(grid)))) << grid;
  }
}

// One step on down_proj alone: V = −rate · sign(∂L/∂ŵ · s inside the grid), ∂L/∂ŵ = 2/n Σ (y − y*) aᵀ with its inputs
// a.
TEST_F(SignRound, StepsAgainstTheGradientByHand) {
  const char* grid = "bits: 3, group_size: 32";
  const std::string only = ", rules: [{match: \"*.up_proj\", weight: {bits: 16}}]";
  const QuantConfig config =
      quant_config(yaml("iterations: 1, lr: 0.02, tune_range: false, targets: same, batch: 100", grid, only));
  const std::vector<Quantized> nearest = quantized(rtn(grid, only)), stepped = quantized(config);
  ASSERT_EQ(stepped.size(), 1u);
  ASSERT_FALSE(equal(stepped, nearest)) << "the step is no better than rounding to nearest";
  const Encoded& start = nearest[0].encoded;
  const at::Tensor w = toy_.slot(1).linear().weight(), s = start.parameters.at("scale").repeat_interleave(32, 1);
  const at::Tensor z = start.parameters.at("zero_point").to(at::kFloat).repeat_interleave(32, 1);
  const at::Tensor error = ((start.codes.to(at::kFloat) - z) * s - w).to(at::kDouble);  // ŵ − w: [O, I]
  const auto taps = std::make_shared<std::vector<at::Tensor>>();
  const auto before = toy_.slot(1).pointer();
  toy_.slot(1).put(std::make_shared<core::RecordingLinear>(before, [taps](const at::Tensor& x) {
    taps->push_back(x.reshape({-1, x.size(-1)}).to(at::kDouble));
  }));
  for (int64_t i = 0; i < kBatches; ++i) toy_.model->block(0).forward(inputs_.get(i), {});
  toy_.slot(1).put(before);
  const at::Tensor a = at::cat(*taps);                              // [m, I]
  const at::Tensor gradient = at::mm(at::mm(a, error.t()).t(), a);  // [O, I], up to a positive factor
  const at::Tensor position = w / s + z, inside = at::round(position).clamp(0, 7) == at::round(position);
  const at::Tensor codes = at::round(position - 0.02 * at::sign(gradient) * inside).clamp(0, 7).to(at::kByte);
  EXPECT_GE((codes == stepped[0].encoded.codes).to(at::kFloat).mean().item<double>(), 0.999);
  EXPECT_LT((codes == start.codes).to(at::kFloat).mean().item<double>(), 0.995);
}

TEST_F(SignRound, EqualSeedsGiveEqualCodesAndOthersDoNot) {
  const std::string config = yaml("iterations: 20, batch: 2", "bits: 2, group_size: 32");
  const std::vector<Quantized> first = quantized(config, 1);
  EXPECT_TRUE(equal(first, quantized(config, 1)));
  EXPECT_FALSE(equal(first, quantized(config, 2)));
}

TEST_F(SignRound, LeavesTheSlotsAsTheyWereAndSaysWhatItReached) {
  const auto up = toy_.slot(0).pointer(), down = toy_.slot(1).pointer();
  const QuantConfig config = quant_config(yaml("iterations: 5", "bits: 2, group_size: 32"));
  const std::vector<Quantized> results = quantized(config);
  EXPECT_EQ(toy_.slot(0).pointer(), up);
  EXPECT_EQ(toy_.slot(1).pointer(), down);
  ASSERT_EQ(results.size(), 2u);
  EXPECT_EQ(results[0].note, fmt::format("block mse {:.3g}, of rtn {:.3g}", loss(config, results),
                                         loss(rtn("bits: 2, group_size: 32"))));
  EXPECT_EQ(results[0].note, results[1].note);
}

TEST_F(SignRound, AsksForTheStreamsThatItReads) {
  const auto stage = [&](const std::string& yaml, bool propagate_error) {
    const QuantConfig config = quant_config(yaml);
    return Quantize(config.methods.at(config.method).share(), config.method, assign(config, *toy_.model),
                    {.propagate_error = propagate_error});
  };
  EXPECT_TRUE(stage(yaml("", ""), true).reads_stream(*toy_.model));
  EXPECT_TRUE(stage(yaml("", ""), true).reads_full_stream());
  EXPECT_FALSE(stage(yaml("targets: same", ""), true).reads_full_stream());
  EXPECT_TRUE(stage(yaml("targets: same", ""), false).reads_full_stream());
  EXPECT_FALSE(stage(rtn(""), true).reads_stream(*toy_.model));
  EXPECT_TRUE(needs_statistics(assign(quant_config(yaml("", "")), *toy_.model)));
  const std::string nothing = ", rules: [{match: \"*\", weight: {bits: 16}}]";
  EXPECT_FALSE(needs_statistics(assign(quant_config(yaml("", "", nothing)), *toy_.model)));
}

TEST_F(SignRound, InTheWalkTrainsEveryBlockOnTheInputsThatTheBlocksBeforeLeave) {
  const QuantConfig config = quant_config(yaml("iterations: 10", "bits: 2, group_size: 32"));
  Quantize stage(config.methods.at("signround").share(), "signround", assign(config, *toy_.model));
  toy_.walk({&stage}, {.full = &full_, .quantized = &inputs_});
  ASSERT_EQ(stage.reports().size(), 2 * toy::kLayers);
  for (const ModuleReport& report : stage.reports()) EXPECT_THAT(report.note, StartsWith("block mse "));
}

TEST_F(SignRound, NamesTheModuleWhoseScaleDoesNotFit) {
  const auto before = toy_.slot(1).pointer();
  at::Tensor w = before->weight().clone();
  w[2][3] = 1e6;
  toy_.slot(1).put(std::make_shared<core::DenseLinear>(w, at::Tensor(), 32));
  EXPECT_EQ(message_of([&] { quantized(yaml("", "bits: 2")); }),
            "model.layers.0.mlp.down_proj: a scale of 3.33e+05 does not fit float16. Use scale_dtype: bfloat16 or "
            "float32.");
}

TEST(Mistakes, OfSignRoundAreToldBeforeTheRun) {
  const auto model = toy::skeleton();
  const auto message = [&](const std::string& weight) {
    return message_of([&] { assign(quant_config("{method: signround, weight: {" + weight + "}}"), *model); });
  };
  EXPECT_EQ(message("codebook: normal_float"),
            "model.layers.0.mlp.up_proj: signround: it trains the ranges of uniform grids, not the format codebook. "
            "Set quant.weight.codebook: uniform.");
  EXPECT_EQ(message("rounding: stochastic"),
            "model.layers.0.mlp.up_proj: signround: it chooses the rounding itself. Set quant.weight.rounding: "
            "nearest.");
  EXPECT_EQ(message("symmetry: midrise"), "no error");
  EXPECT_EQ(message_of([] { quant_config("signround: {batch: 0}"); }),
            "a.yaml:1: quant.signround.batch is out of range: 0. Write a number in [1, 1048576].");
}

}  // namespace
}  // namespace quant
