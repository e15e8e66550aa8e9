// Transforms keep what a block computes, fold into everything that reads an input, and choose what a slow search by the
// paper's own formulas chooses.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cmath>
#include <filesystem>

#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "models/registry.h"
#include "quant/grids/make_format.h"
#include "quant/stage/apply_transforms.h"
#include "quant/stage/fold.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

using ::testing::HasSubstr;

std::vector<NamedTransform> transforms(const std::vector<std::string>& items) {
  std::vector<NamedTransform> all;
  for (const std::string& text : items) {
    TransformItem item;
    core::bind(core::parse_yaml(text, "a.yaml"), item, "transform[0]");
    all.push_back(item.chosen());
  }
  return all;
}

// The weights are loaded already.
struct Loaded : core::BlockSource {
  void load(core::Model&, int64_t) override {}
  void release(core::Model&, int64_t) override {}
};

// Runs the transforms over a loaded model on these tokens; what they wrote down.
std::map<std::string, std::string> apply(core::Model& model, const at::Tensor& ids,
                                         const std::vector<std::string>& items) {
  const QuantConfig config = quant_config("{method: rtn, weight: {bits: 2, group_size: -1}}");
  ApplyTransforms stage(transforms(items), assign(config, model), /*propagate_error=*/true);
  core::HiddenStore hidden(1);
  hidden.put(0, model.embed(ids));
  Loaded source;
  core::walk(model, source, {&stage}, {.quantized = &hidden});
  return stage.notes();
}

// One of every family and variant.
std::vector<std::string> golden_models() {
  std::vector<std::string> all;
  for (const auto& entry : std::filesystem::directory_iterator(REFRAIN_SOURCE_DIR "/tests/golden/models"))
    all.push_back(entry.path().string());
  return all;
}

TEST(Transform, EveryFamilyComputesWhatItDidToOnePartInAHundredThousand) {
  at::NoGradGuard no_gradient;
  ASSERT_GE(golden_models().size(), 7u);
  std::vector<std::vector<std::string>> chains{{"smoothquant: {alpha: 0.8}", "awq: {duo_scaling: true}"}};
  for (const auto& [name, transform] : make_transforms()) chains.push_back({name + ": {}"});
  for (const std::string& directory : golden_models()) {
    for (const std::vector<std::string>& items : chains) {
      SCOPED_TRACE(directory + " " + items.front());
      const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), at::kFloat,
                                  at::kCPU);
      const auto model = models::build(core::read_hf_config(directory));
      core::load(*model, weights);
      const at::Tensor ids = toy::ids(2, 12), before = model->forward(ids);
      const core::RmsNorm& norm = *model->block(0).groups().front().producer.norm;
      const at::Tensor gains = norm.weight().clone();
      const auto notes = apply(*model, ids, items);
      const at::Tensor error = (model->forward(ids) - before).abs().max() / before.abs().max();
      EXPECT_LT(error.item<double>(), 1e-5);
      const std::string& note = notes.at(model->slots().front()->path());
      EXPECT_THAT(note, HasSubstr(items.front().substr(0, 3)));
      EXPECT_TRUE(note.starts_with("awq alpha 0,") || !at::equal(norm.weight(), gains))
          << "nothing was folded: " << note;
    }
  }
}

// ---- folding ----

TEST(Fold, QueryHeadsThatShareAValueHeadShareAFactor) {
  const core::Producer producer{.heads_per_kv = 2, .head_width = 3};
  const at::Tensor columns = at::arange(12, at::kFloat);  // 4 query heads of width 3, 2 value heads
  const std::vector<float> expected{1.5, 2.5, 3.5, 1.5, 2.5, 3.5, 7.5, 8.5, 9.5, 7.5, 8.5, 9.5};
  EXPECT_TRUE(at::equal(tied(producer, columns), at::tensor(expected)));
  EXPECT_TRUE(at::equal(tied({}, columns), columns)) << "a norm has one channel per column";
}

TEST(Fold, DividesANormAndMultipliesEveryReader) {
  toy::Toy toy;
  toy.load_blocks();
  core::Block& block = toy.model->block(0);
  const core::LinearGroup group = block.groups().front();
  const at::Tensor gains = group.producer.norm->weight().clone(), w = group.slots.front()->linear().weight().clone();
  const at::Tensor f = at::linspace(0.5, 2, toy::kWidth);
  fold(group.producer, group.slots, f);
  EXPECT_TRUE(at::equal(group.producer.norm->weight(), gains / f));
  EXPECT_TRUE(at::equal(group.slots.front()->linear().weight(), w * f));
}

// ---- the factors ----

// A linear with a norm before it, as a transform sees it.
struct Group {
  Single single;
  core::RmsNorm norm{"model.layers.0.norm", 64, 1e-6};
  InputGroup group;

  Group(const at::Tensor& w, const at::Tensor& x, const std::string& weight)
      : single(w, quant_config("{weight: " + weight + "}"), statistics_of(x)) {
    group.consumers = {{&single.slot, single.format}};
    group.producer = {.norm = &norm};
    group.inputs = single.inputs;
    group.samples = {x.unsqueeze(0)};
  }
};

at::Tensor group_inputs() { return correlated_inputs(200, 64); }
at::Tensor weight() {
  at::manual_seed(5);
  return at::randn({24, 64}) / 8;
}

TEST(SmoothQuant, FactorsAreThoseOfEquationFour) {
  Group one(weight(), group_inputs(), "{bits: 4}");
  const at::Tensor f = transforms({"smoothquant: {alpha: 0.7}"})[0].transform->factors(one.group).values;
  const at::Tensor x = group_inputs(), w = weight();
  for (int64_t j = 0; j < 64; ++j) {
    const double a = x.select(1, j).abs().max().item<double>(), b = w.select(1, j).abs().max().item<double>();
    EXPECT_NEAR(f[j].item<double>(), std::pow(a, 0.7) / std::pow(b, 0.3), 1e-4);
  }
}

// The exponent that section 3.2 of the paper chooses, by plain products over the tokens.
int64_t slow_exponent(const Group& one, int64_t grid) {
  const at::Tensor x = one.group.samples.front()[0], w = one.single.slot.linear().weight();
  int64_t best = -1;
  double least = 1e300;
  for (int64_t i = 0; i < grid; ++i) {
    at::Tensor f = x.abs().mean(0).pow(static_cast<double>(i) / static_cast<double>(grid)).clamp_min(1e-4);
    f = f / (f.max() * f.min()).sqrt();
    const Encoded encoded = round_to_nearest(w * f, *one.single.format, {});
    const at::Tensor rounded = one.single.format->decode(encoded.codes, encoded.parameters);
    const at::Tensor error = at::mm(x / f, rounded.t()) - at::mm(x, w.t());
    const double loss = error.to(at::kDouble).square().sum().item<double>();
    if (loss < least) least = loss, best = i;
  }
  return best;
}

TEST(AwqScales, AreThoseOfASlowSearchByTokensAndByTheHessian) {
  for (const char* grid : {"{bits: 2, group_size: 32}", "{bits: 3, group_size: -1, symmetry: midrise}"}) {
    SCOPED_TRACE(grid);
    Group one(weight(), group_inputs(), grid);
    const auto transform = transforms({"awq: {grid: 12}"})[0].transform;
    const std::string expected = fmt::format("alpha {:g},", static_cast<double>(slow_exponent(one, 12)) / 12);
    EXPECT_THAT(transform->factors(one.group).note, HasSubstr(expected));
    one.group.parent = [&](const at::Tensor& x) { return one.single.slot.forward(x); };
    EXPECT_THAT(transform->factors(one.group).note, HasSubstr(expected)) << "judged by the parent's output";
    EXPECT_NE(slow_exponent(one, 12), 0) << "scaling helps here";
  }
}

TEST(AwqScales, LeaveAGroupAloneThatNobodyQuantizes) {
  Group one(weight(), group_inputs(), "{bits: 4}");
  one.group.consumers.front().format = nullptr;
  EXPECT_FALSE(transforms({"awq: {}"})[0].transform->needs(one.group).any());
}

// ---- the clipping of method: awq ----

// The least of Δ H_g Δᵀ over the fractions, for every group of every row; doubles and plain loops.
double slow_clip_loss(const at::Tensor& w, const at::Tensor& h, int64_t S, bool asymmetric, const std::string& yaml) {
  const auto format = make_format(quant_config(yaml).weight, "a", S);
  double total = 0;
  for (int64_t o = 0; o < w.size(0); ++o) {
    for (int64_t g = 0; g < w.size(1) / S; ++g) {
      const at::Tensor row = w[o].slice(0, g * S, (g + 1) * S).unsqueeze(0);
      const at::Tensor block = h.slice(0, g * S, (g + 1) * S).slice(1, g * S, (g + 1) * S).to(at::kDouble);
      const double hi = std::max(0.0, row.max().item<double>()), lo = std::min(0.0, row.min().item<double>());
      const double a = std::max(hi, -lo);
      double least = 1e300;
      for (int64_t i = 0; i < 10; ++i) {
        const double p = 1 - static_cast<double>(i) / 20;
        const at::Tensor clipped = at::clamp(row, asymmetric ? lo * p : -a * p, asymmetric ? hi * p : a * p);
        const Encoded encoded = round_to_nearest(clipped, *format, {});
        const at::Tensor d = (format->decode(encoded.codes, encoded.parameters) - row).to(at::kDouble);
        least = std::min(least, (at::mm(d, block) * d).sum().item<double>());
      }
      total += least;
    }
  }
  return total;
}

TEST(Awq, ClipsEveryGroupToTheFractionThatASlowSearchFinds) {
  const at::Tensor w = weight(), x = group_inputs();
  const Statistics known = statistics_of(x);
  for (const auto& [grid, S, asymmetric] :
       std::vector<std::tuple<std::string, int64_t, bool>>{{"bits: 2, group_size: 16", 16, true},
                                                           {"bits: 4, group_size: 16", 16, false},
                                                           {"bits: 2, group_size: -1, symmetry: midrise", 64, false}}) {
    SCOPED_TRACE(grid);
    const std::string row = "{weight: {" + grid.substr(0, grid.find("group_size")) + "group_size: -1" +
                            (asymmetric || S == 16 ? "" : ", symmetry: midrise") + "}}";
    const at::Tensor found = decoded_as("{method: awq, weight: {" + grid + "}}", w, known);
    const at::Tensor d = (found - w).reshape({24, 64 / S, S}).to(at::kDouble);
    double loss = 0;
    for (int64_t g = 0; g < 64 / S; ++g) {
      const at::Tensor part = d.select(1, g);
      const at::Tensor block = known.hessian.slice(0, g * S, (g + 1) * S).slice(1, g * S, (g + 1) * S).to(at::kDouble);
      loss += (at::mm(part, block) * part).sum().item<double>();
    }
    EXPECT_NEAR(loss / slow_clip_loss(w, known.hessian, S, asymmetric, row), 1, 1e-4);
  }
}

TEST(Awq, WithoutUsableInputsItRoundsAndSaysSo) {
  const Quantized result = quantized_as("{method: awq, weight: {bits: 2, group_size: 32}}", weight(), {});
  EXPECT_FALSE(result.fallback.empty());
}

TEST(Awq, QueriesAreNotClipped) {
  const QuantConfig config = quant_config("{method: awq, weight: {bits: 2, group_size: 32}}");
  Single plain(weight(), config, statistics_of(group_inputs()));
  core::Slot queries("model.layers.0.self_attn.q_proj", core::Role::q_proj, 24, 64, false);
  queries.put(plain.slot.pointer());
  static toy::Toy toy;
  const core::Streams streams;
  core::BlockContext context{*toy.model, toy.model->block(0), 0, 0, streams};
  const auto results = config.methods.at("awq")->quantize(
      context, {{.slot = &queries, .format = plain.format, .input = nullptr, .inputs = plain.inputs}});
  const Encoded nearest = round_to_nearest(weight(), *plain.format, plain.inputs);
  EXPECT_TRUE(at::equal(results[0].encoded.codes, nearest.codes));
  EXPECT_FALSE(at::equal(plain.by(*config.methods.at("awq")).encoded.codes, nearest.codes));
}

}  // namespace
}  // namespace quant
