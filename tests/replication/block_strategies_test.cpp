// Strategies of whole blocks: which plan they make, and what they give a replica of its own.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "core/config/node.h"
#include "quant/grids/draws.h"
#include "quant/linear/quantized_linear.h"
#include "quant/stage/quantize.h"
#include "replication/affine_fit.h"
#include "replication/config.h"
#include "replication/own_parameters.h"
#include "tests/support/toy_model.h"

namespace replication {
namespace {

ReplicationConfig config_of(const std::string& yaml) {
  ReplicationConfig config;
  core::bind(core::parse_yaml(yaml, "test.yaml"), config, "replication");
  return config;
}

void follow(const ReplicationConfig& config, core::Model& model) {
  follow_plan(config, model, config.select.chosen_linears(model, {}, 0));
}

// "0 1 1.1(1) 2": block.replica(step whose keys are attended to)xparallel.
std::string plan_of(const std::string& yaml) {
  const auto model = toy::skeleton();  // three blocks
  follow(config_of(yaml), *model);
  std::string text;
  for (const core::Step& step : model->plan()) {
    text += (text.empty() ? "" : " ") + std::to_string(step.block);
    if (step.replica > 0) text += "." + std::to_string(step.replica);
    if (step.kv != core::Step::kOwn) text += "(" + std::to_string(step.kv) + ")";
    if (step.parallel > 1) text += "x" + std::to_string(step.parallel);
  }
  return text;
}

TEST(Depth, RunsEachBlockSeveralTimesOrTheSpanAsAWhole) {
  EXPECT_EQ(plan_of("{strategy: none}"), "0 1 2");
  EXPECT_EQ(plan_of("{strategy: depth}"), "0 0.1(0) 1 1.1(2) 2 2.1(4)");
  EXPECT_EQ(plan_of("{strategy: depth, depth: {span: [1, 1], passes: 3}}"), "0 1 1.1(1) 1.2(1) 2");
  EXPECT_EQ(plan_of("{strategy: depth, depth: {span: [1, 2], kv: own}}"), "0 1 1.1 2 2.1");
  EXPECT_EQ(plan_of("{strategy: depth, depth: {span: [0, 1], order: span}}"), "0 1 0.1(0) 1.1(1) 2");
}

TEST(Depth, RefusesASpanThatTheModelDoesNotHave) {
  const auto refusal = [](const std::string& span) {
    return core::message_of([&] { plan_of("{strategy: depth, depth: {span: " + span + "}}"); });
  };
  EXPECT_EQ(refusal("[1, 3]"),
            "test.yaml:1: replication.depth.span: [1, 3] is no span of this model, whose blocks are 0 to 2. Give the "
            "first and the last block.");
  EXPECT_EQ(refusal("[2, 1]"),
            "test.yaml:1: replication.depth.span: [2, 1] is no span of this model, whose blocks are 0 to 2. Give the "
            "first and the last block.");
  EXPECT_EQ(refusal("[1]"),
            "test.yaml:1: replication.depth.span has 1 numbers. Give the first and the last block, e.g. [4, 6].");
}

TEST(Depth, ClosesTheGatesOfLaterPassesOnly) {
  toy::Toy toy;
  const ReplicationConfig config = config_of("{strategy: depth, depth: {gate_init: 0.25}}");
  follow(config, *toy.model);
  prepare_replicas(config, {}, *toy.model, 1, 0);
  EXPECT_FALSE(toy.model->block(1).mlp_gate().value().defined());
  EXPECT_EQ(toy.model->block(1, 1).mlp_gate().value().item<double>(), 0.25);
  EXPECT_EQ(toy.model->block(1, 1).attention_gate().value().item<double>(), 0.25);
}

TEST(Depth, CalibratesOnLaterStepsWhereItIsAsked) {
  const auto model = toy::skeleton();
  const auto steps_of = [&](const std::string& depth, const std::string& path) {
    const ReplicationConfig config = config_of("{strategy: depth, depth: " + depth + "}");
    follow(config, *model);
    std::vector<int64_t> steps;
    for (const quant::FurtherInput& further :
         config.block_strategy()->further_inputs(model->slot(path), model->plan())) {
      EXPECT_EQ(further.path, path);
      steps.push_back(further.step);
    }
    return steps;
  };
  const std::string first = "model.layers.0.mlp.up_proj", last = "model.layers.2.mlp.up_proj";
  EXPECT_EQ(steps_of("{span: [0, 1], order: span, calibrate: all_steps, passes: 3}", first),
            (std::vector<int64_t>{2, 4}));
  EXPECT_TRUE(steps_of("{span: [0, 1], calibrate: all_steps}", last).empty()) << "it runs once";
  EXPECT_TRUE(steps_of("{span: [0, 1]}", first).empty());
}

TEST(BlockStrategies, BillWhatReplicasOwn) {
  const auto bits = [](const std::string& yaml, OwnParameters own) {
    const ReplicationConfig config = config_of(yaml);
    const auto model = toy::skeleton();
    follow(config, *model);
    return bits_of_replicas(config, own, model->plan(), 1, /*parameters=*/1000, /*norms=*/10);
  };
  EXPECT_EQ(bits("{strategy: parallel, parallel: {replicas: 3}}", {}), 2000);
  EXPECT_EQ(bits("{strategy: parallel, parallel: {replicas: 3, jitter: 0}}", {}), 0);
  EXPECT_EQ(bits("{strategy: parallel, parallel: {jitter: 0}}", {.parameters = true, .norms = true}), 1010);
  EXPECT_EQ(bits("{strategy: depth, depth: {passes: 3}}", {}), 2 * 2 * 32) << "gates";
  EXPECT_EQ(bits("{strategy: depth}", {.parameters = true}), 1064);
  EXPECT_EQ(bits("{strategy: depth, depth: {span: [0, 0]}}", {.parameters = true}), 0) << "another block";
}

TEST(BlockStrategies, KeepTheirSelectionOrRefuseIt) {
  EXPECT_EQ(plan_of("{strategy: parallel}"), "0x2 1x2 2x2");
  EXPECT_EQ(plan_of("{strategy: parallel, parallel: {replicas: 3}, select: {unit: block, policy: every}}"),
            "0x3 1 2x3");
  EXPECT_EQ(core::message_of([] { config_of("{strategy: parallel, select: {policy: every}}"); }),
            "test.yaml:1: replication.select.unit: parallel runs whole blocks. Select them with unit: block.");
  EXPECT_EQ(core::message_of([] { config_of("{strategy: depth, select: {unit: block, policy: every}}"); }),
            "test.yaml:1: replication.select: depth says itself which blocks run. Remove one of the two.");
}

// ---- parameters of their own ----

// The toy model at 3 bits, with one replica of block 0.
struct Coded : toy::Toy {
  Coded() {
    model->follow({{.block = 0, .parallel = 2}, {.block = 1}, {.block = 2}});
    quant::QuantConfig config;
    core::bind(core::parse_yaml("{method: rtn, weight: {bits: 3, group_size: 16}}", "test.yaml"), config, "quant");
    quant::Quantize quantize(config.methods.at("rtn").share(), "rtn", quant::assign(config, *model));
    walk({&quantize});
  }
  const quant::QuantizedLinear& linear(int64_t replica, size_t slot) {
    return dynamic_cast<const quant::QuantizedLinear&>(model->block(0, replica).slots().at(slot)->linear());
  }
};

TEST(OwnParameters, AreACopyOnTheCodesOfTheBlockWhereTheyLie) {
  Coded toy;
  const core::Cost before = core::bill(*toy.model);
  EXPECT_EQ(&toy.linear(1, 0), &toy.linear(0, 0));
  give_own_parameters(toy.model->block(0), toy.model->block(0, 1), 0, 0);
  for (const size_t slot : {0, 1}) {
    const quant::QuantizedLinear &block = toy.linear(0, slot), &replica = toy.linear(1, slot);
    EXPECT_NE(&replica, &block);
    EXPECT_EQ(replica.codes().packed().const_data_ptr(), block.codes().packed().const_data_ptr());
    EXPECT_NE(replica.parameters().at("scale").const_data_ptr(), block.parameters().at("scale").const_data_ptr());
    EXPECT_TRUE(at::equal(replica.weight(), block.weight()));
    EXPECT_EQ(replica.codes_of(), toy.model->block(0).slots()[slot]->path());
  }
  const core::Cost after = core::bill(*toy.model);
  EXPECT_EQ(after.code_bits, before.code_bits);
  EXPECT_EQ(after.weights, before.weights);
  EXPECT_EQ(after.dense_bits, before.dense_bits);
  EXPECT_GT(after.parameter_bits, before.parameter_bits);
}

TEST(OwnParameters, AreJitteredByWhatIsAskedFor) {
  Coded toy;
  give_own_parameters(toy.model->block(0), toy.model->block(0, 1), 0.05, 3);
  const at::Tensor &block = toy.linear(0, 0).parameters().at("scale"), &own = toy.linear(1, 0).parameters().at("scale");
  const at::Tensor change = own / block - 1;
  EXPECT_NEAR(change.std().item<double>(), 0.05, 0.01);
  EXPECT_NEAR(change.mean().item<double>(), 0, 0.01);
  EXPECT_TRUE(at::equal(own.to(at::kHalf).to(at::kFloat), own)) << "what would not be stored as it is";
  EXPECT_TRUE(
      at::equal(toy.linear(1, 0).parameters().at("zero_point"), toy.linear(0, 0).parameters().at("zero_point")));
  Coded again, other;
  give_own_parameters(again.model->block(0), again.model->block(0, 1), 0.05, 3);
  give_own_parameters(other.model->block(0), other.model->block(0, 1), 0.05, 4);
  EXPECT_TRUE(at::equal(again.linear(1, 0).parameters().at("scale"), own));
  EXPECT_FALSE(at::equal(other.linear(1, 0).parameters().at("scale"), own));
}

TEST(OwnParameters, AreAveragedBackToOne) {
  Coded toy;
  core::Block &block = toy.model->block(0), &replica = toy.model->block(0, 1);
  const at::Tensor before = toy.linear(0, 0).parameters().at("scale").clone();
  give_own_parameters(block, replica, 0.05, 3);
  give_own_norms(replica);
  const at::Tensor own = toy.linear(1, 0).parameters().at("scale").clone();
  const auto norm = [](core::Block& of) {
    for (const auto& module : of.modules(/*include_self=*/false)) {
      if (auto* found = dynamic_cast<core::RmsNorm*>(module.get())) return found;
    }
    return static_cast<core::RmsNorm*>(nullptr);
  };
  const at::Tensor weight = norm(block)->weight().clone();
  at::Tensor(norm(replica)->weight()).mul_(3);
  average_parameters(block, {&replica});
  EXPECT_EQ(&toy.linear(1, 0), &toy.linear(0, 0)) << "shared again";
  EXPECT_LE((toy.linear(0, 0).parameters().at("scale") - (before + own) / 2).abs().max().item<float>(),
            1e-3 * before.max().item<float>());
  EXPECT_TRUE(at::allclose(norm(block)->weight(), weight * 2));
  EXPECT_EQ(norm(replica)->weight().const_data_ptr(), norm(block)->weight().const_data_ptr());
}

// ---- adjacent ----

std::vector<quant::Assignment> assigned(core::Model& model, const std::string& replication,
                                        const std::string& quant = "{method: rtn, weight: {bits: 2, group_size: 16}}") {
  quant::QuantConfig config;
  core::bind(core::parse_yaml(quant, "test.yaml"), config, "quant");
  const ReplicationConfig chosen = config_of(replication);
  follow(chosen, model);
  return quant::assign(config, model, 0, coding_of(chosen));
}

TEST(Adjacent, TheFirstOfASpanMakesTheCodesOfAll) {
  const auto model = toy::skeleton();
  const auto assignments = assigned(*model, "{strategy: adjacent, adjacent: {span: 3}}");
  ASSERT_EQ(assignments.size(), 6);
  EXPECT_EQ(assignments[0].codes_of, "");
  EXPECT_EQ(assignments[1].codes_of, "");
  EXPECT_EQ(assignments[2].codes_of, "model.layers.0.mlp.up_proj");
  EXPECT_EQ(assignments[5].codes_of, "model.layers.0.mlp.down_proj");
  for (const quant::Assignment& a : assignments) EXPECT_EQ(a.format->code_bits(), 6) << a.slot->path();
}

TEST(Adjacent, RefusesWhatCannotShare) {
  const auto model = toy::skeleton();
  const auto refusal = [&](const std::string& span, const std::string& quant) {
    return core::message_of([&] { assigned(*model, "{strategy: adjacent, adjacent: {span: " + span + "}}", quant); });
  };
  EXPECT_EQ(refusal("2", "{method: rtn, weight: {bits: 2, group_size: 16}}"),
            "test.yaml:1: replication.adjacent.span: 3 blocks are no whole number of groups of 2. Choose a divisor.");
  EXPECT_EQ(refusal("3", "{method: rtn, weight: {bits: 3, group_size: 16}}"),
            "model.layers.0.mlp.up_proj: 3 blocks of 3 bits would share codes of 9 bits. 8 is the most.");
  EXPECT_EQ(
      refusal("3", "{method: rtn, weight: {bits: 2, group_size: 16}, rules: [{match: '*.1.*', weight: {bits: 1}}]}"),
      "model.layers.1.mlp.up_proj: it shares the codes of model.layers.0.mlp.up_proj, which has not as many of as "
      "many bits. Give both the same weight.bits.");
  EXPECT_EQ(refusal("3", "{method: rtn, weight: {bits: 2, group_size: 16, codebook: lloyd_max}}"),
            "model.layers.0.mlp.up_proj: adjacent shares the codes of affine grids with one level of scales. Use "
            "codebook: uniform, scale_bits: 0, a group_size other than 0 and zero_point: int or float.");
  EXPECT_NE(refusal("3", "{method: rtn, weight: {bits: 2, group_size: 16, zero_point: min}}")
                .find("zero_point: int or float"),
            std::string::npos);
}

TEST(Adjacent, FollowersAreFittedToTheirOwnWeights) {
  const auto error = [](const std::string& init) {
    toy::Toy toy;
    const auto assignments = assigned(*toy.model, "{strategy: adjacent, adjacent: {span: 3, init: " + init + "}}");
    quant::QuantConfig config;
    quant::Quantize stage(config.methods.at("rtn").share(), "rtn", assignments, {}, [&](const std::string& path) {
      const auto slots = toy.model->slots();
      const auto slot = std::find_if(slots.begin(), slots.end(), [&](const auto* s) { return s->path() == path; });
      const auto& linear = dynamic_cast<const quant::QuantizedLinear&>((*slot)->linear());
      return quant::Encoded{linear.codes().unpack(), linear.parameters()};
    });
    core::HiddenStore hidden(1);
    hidden.put(0, toy.model->embed(toy::ids()));
    toy.walk({&stage}, {.quantized = &hidden});
    const auto hash = [&](size_t slot) {
      return dynamic_cast<const quant::QuantizedLinear&>(toy.slot(slot).linear()).codes().hash();
    };
    EXPECT_EQ(hash(2), hash(0));
    EXPECT_EQ(hash(4), hash(0));
    EXPECT_EQ(hash(5), hash(1));
    EXPECT_EQ(core::bill(*toy.model).code_bits, 6 * 2 * toy::kWidth * toy::kFfn) << "one block's";
    return stage.reports().at(2).weight_error;
  };
  // Unrelated weights: the best scale for them is nearly none, that of the leader adds the error of a stranger.
  EXPECT_GT(error("leader"), 1.5);
  EXPECT_LT(error("fit"), 1.0);
}

TEST(Adjacent, CodesOfTheMeanAreMadeOfAllMembers) {
  const auto model = toy::skeleton();
  ReplicationConfig config = config_of("{strategy: adjacent, adjacent: {span: 3, from: mean}}");
  follow(config, *model);
  quant::QuantConfig quant;
  core::bind(core::parse_yaml("{method: rtn, weight: {bits: 2, group_size: 16}}", "test.yaml"), quant, "quant");
  std::vector<quant::Assignment> all = quant::assign(quant, *model, 0, coding_of(config));
  add_further_inputs(config, *model, all);
  EXPECT_EQ(all[1].mean_with,
            (std::vector<std::string>{"model.layers.1.mlp.down_proj", "model.layers.2.mlp.down_proj"}));
  ASSERT_EQ(all[1].further.size(), 2u);
  EXPECT_EQ(all[1].further[1].path, "model.layers.2.mlp.down_proj");
  EXPECT_EQ(all[1].further[1].step, 2);
  EXPECT_TRUE(all[1].refinement) << "the leader fits its parameters to its own weights";
  for (size_t i = 2; i < 6; ++i) EXPECT_TRUE(all[i].mean_with.empty() && all[i].further.empty()) << i;
}

TEST(Adjacent, WithoutFollowersOnlyLeadersRun) {
  EXPECT_EQ(plan_of("{strategy: adjacent, adjacent: {span: 3}, control: followers_removed}"), "0");
  EXPECT_EQ(plan_of("{strategy: adjacent, adjacent: {span: 3}}"), "0 1 2");
  EXPECT_EQ(core::message_of([] { config_of("{strategy: depth, control: followers_removed}"); }),
            "test.yaml:1: replication.control: followers_removed takes away blocks that use the codes of others, and "
            "depth has none. Use it with adjacent.");
}

// Codes that have nothing to do with the weights: the parameters stay what 16 bits can hold, and do no harm.
TEST(Adjacent, AFitToStrangeCodesIsStored) {
  const quant::Place place{"layer", 5};
  const at::Tensor w = quant::normal_draw(place, "weights", 0, 64, 128) + 3;
  const at::Tensor codes = quant::uniform_draw(place, "codes", 0, 64, 128).mul(64).to(at::kByte);
  for (const char* zero_point : {"float", "int"}) {
    quant::WeightConfig weight;
    core::bind(core::parse_yaml(std::string("{bits: 6, group_size: 64, zero_point: ") + zero_point + "}", "test.yaml"),
               weight, "weight");
    const quant::AffineGrid grid(weight, place);
    const quant::Parameters found = fitted(grid, codes, w, at::ones({128}));
    for (const quant::Parameter& p : found)
      EXPECT_TRUE(at::isfinite(p.tensor.to(at::kFloat).to(at::kHalf)).all().item<bool>()) << p.name;
    const double error = at::square(w - grid.decode(codes, found)).sum().item<double>();
    EXPECT_LT(error, at::square(w).sum().item<double>());
  }
}

}  // namespace
}  // namespace replication
