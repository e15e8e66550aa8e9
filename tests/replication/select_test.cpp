// Which linears each policy chooses.
#include "replication/select.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/config/node.h"
#include "replication/config.h"
#include "tests/support/calibrated.h"
#include "tests/support/toy_mixture.h"

namespace replication {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const std::string kUp = ".mlp.up_proj", kDown = ".mlp.down_proj";

struct Select {
  std::shared_ptr<core::Model> model = toy::skeleton();
  RankingStatistics evidence;

  std::set<std::string> linears(const std::string& yaml, uint64_t seed = 1) const {
    Selection selection;
    core::bind(core::parse_yaml(yaml, "a.yaml"), selection, "replication.select");
    return selection.chosen_linears(*model, evidence, seed);
  }
};

TEST(Select, EveryPolicyChoosesWhatItSays) {
  const Select select;
  const std::string a = toy::layer(0), b = toy::layer(1), c = toy::layer(2);
  EXPECT_THAT(select.linears("{}"), SizeIs(6));
  EXPECT_THAT(select.linears("{unit: block, policy: every, every: 2}"),
              ElementsAre(a + kDown, a + kUp, c + kDown, c + kUp));
  EXPECT_THAT(select.linears("{policy: every, every: 4}"), ElementsAre(a + kUp, c + kUp));
  EXPECT_THAT(select.linears("{policy: list, list: [" + b + kUp + "]}"), ElementsAre(b + kUp));
  EXPECT_THAT(select.linears("{unit: block, policy: list, list: [" + b + "]}"), ElementsAre(b + kDown, b + kUp));
  EXPECT_THAT(select.linears("{policy: pattern, pattern: \"*.down_proj\"}"),
              ElementsAre(a + kDown, b + kDown, c + kDown));
}

TEST(Select, RandomIsAFractionThatFollowsFromTheSeed) {
  const Select select;
  std::set<std::set<std::string>> different;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const auto chosen = select.linears("{policy: random, fraction: 0.5}", seed);
    EXPECT_THAT(chosen, SizeIs(3));
    EXPECT_EQ(chosen, select.linears("{policy: random, fraction: 0.5}", seed));
    different.insert(chosen);
  }
  EXPECT_GT(different.size(), 5u);
}

TEST(Select, SensitivityRanksLinearsByTheirShareAndBlocksByTheirSum) {
  Select select;
  const std::string a = toy::layer(0), b = toy::layer(1), c = toy::layer(2);
  select.evidence.errors = {{a + kUp, {1, 100}},  {a + kDown, {4, 10}},    // 0.01, 0.4; the block: 5 / 110
                            {b + kUp, {20, 100}}, {b + kDown, {0, 0}},     // 0.2, no energy; the block: 20 / 100
                            {c + kUp, {3, 10}},   {c + kDown, {3, 300}}};  // 0.3, 0.01; the block: 6 / 310
  EXPECT_THAT(select.linears("{policy: sensitivity, fraction: 0.34}"), ElementsAre(a + kDown, c + kUp));
  EXPECT_THAT(select.linears("{unit: block, policy: sensitivity, fraction: 0.34}"), ElementsAre(b + kDown, b + kUp));
}

TEST(Select, CandidatesAreRankedByKlBeforeTheOthers) {
  Select select;
  const std::string a = toy::layer(0), b = toy::layer(1), c = toy::layer(2);
  select.evidence.errors = {{a + kUp, {1, 10}},   {a + kDown, {2, 10}}, {b + kUp, {3, 10}},
                            {b + kDown, {4, 10}}, {c + kUp, {5, 10}},   {c + kDown, {6, 10}}};
  Selection selection;
  core::bind(core::parse_yaml("{policy: sensitivity, metric: kl, candidates: 3}", "a.yaml"), selection, "s");
  EXPECT_THAT(paths_of(selection.kl_candidates(*select.model, select.evidence.errors)),
              ElementsAre(c + kDown, c + kUp, b + kDown));
  select.evidence.kl = {{c + kDown, 0.1}, {c + kUp, 0.3}, {b + kDown, 0.2}};
  EXPECT_THAT(paths_of(selection.ranked(*select.model, select.evidence)),
              ElementsAre(c + kUp, b + kDown, c + kDown, b + kUp, a + kDown, a + kUp));
}

TEST(Select, ExpertsAreThoseOfTheMixturesOfBlocks) {
  Selection selection;
  core::bind(core::parse_yaml("{unit: expert, policy: list, list: [model.layers.2.moe.experts.1]}", "a.yaml"),
             selection, "replication.select");
  const auto model = toy::mixture_skeleton();
  std::vector<std::string> all;
  for (const std::string& block : {toy::layer(0), toy::layer(2)}) {
    for (const char* e : {"0", "1", "2"}) all.push_back(block + ".moe.experts." + e);
  }
  EXPECT_EQ(paths_of(selection.units(*model)), all);
  EXPECT_EQ(selection.units(*model).back().block, 2);
  EXPECT_THAT(selection.chosen_linears(*model, {}, 1), ElementsAre("model.layers.2.moe.experts.1.up_proj"));
  const auto dense = toy::skeleton();
  EXPECT_EQ(core::message_of([&] { selection.chosen_linears(*dense, {}, 1); }),
            "a.yaml:1: replication.select.unit: this model has no experts. Choose unit: linear or block.");
}

// A budget holds units in the order of their sensitivity, past one that does not fit.
TEST(Select, ABudgetIsFilledAndNeverExceeded) {
  Select select;
  const std::string a = toy::layer(0), b = toy::layer(1), c = toy::layer(2);
  select.evidence = {
      .errors = {{a + kUp, {6, 10}},
                 {a + kDown, {5, 10}},
                 {b + kUp, {4, 10}},
                 {b + kDown, {3, 10}},
                 {c + kUp, {2, 10}},
                 {c + kDown, {1, 10}}},
      .extra_bits =
          {{a + kUp, 300}, {a + kDown, 100}, {b + kUp, 200}, {b + kDown, 300}, {c + kUp, 100}, {c + kDown, 300}},
      .covered = 1000};
  EXPECT_THAT(select.linears("{policy: sensitivity, budget: 0.4}"), ElementsAre(a + kDown, a + kUp));
  EXPECT_THAT(select.linears("{policy: sensitivity, budget: 0.35}"), ElementsAre(a + kUp));
  EXPECT_THAT(select.linears("{policy: sensitivity, budget: 0.29}"), ElementsAre(a + kDown, c + kUp));
  EXPECT_THAT(select.linears("{unit: block, policy: sensitivity, budget: 0.85}"),
              ElementsAre(a + kDown, a + kUp, c + kDown, c + kUp));
  EXPECT_THAT(select.linears("{policy: every, every: 3, budget: 0.6}"), ElementsAre(a + kUp, b + kDown));
  const auto message = [&](const char* yaml) { return core::message_of([&] { select.linears(yaml); }); };
  EXPECT_EQ(message("{policy: every, every: 3, budget: 0.5}"),
            "a.yaml:1: replication.select.budget: the selection adds 0.6 bits per weight, more than 0.5. Raise it, or "
            "select less.");
  EXPECT_EQ(
      message("{policy: sensitivity, budget: 0.05}"),
      "a.yaml:1: replication.select.budget: 0.05 bits per weight hold no linear: the cheapest adds 0.1. Raise it.");
  EXPECT_EQ(message("{policy: sensitivity, budget: 0.05, fraction: 0.5}"),
            "a.yaml:1: replication.select.fraction: budget is given too. Keep one of them.");
  EXPECT_EQ(message("{policy: random, metric: kl}"),
            "a.yaml:1: replication.select.metric is not read with policy: random. Remove one of the two.");
  EXPECT_EQ(message("{policy: sensitivity, candidates: 4}"),
            "a.yaml:1: replication.select.candidates is read with policy: sensitivity and metric: kl only. Remove it.");
}

// What the strategy does not read is a mistake where it codes every linear, and meant for the others where it does not.
TEST(Select, VariablesThatTheStrategyDoesNotReadAreForTheOthers) {
  const core::Slot slot("layer", core::Role::up_proj, 32, 64, false),
      other("other", core::Role::up_proj, 32, 64, false);
  for (const char* strategy : {"shifted", "parity_sign"}) {
    ReplicationConfig config;
    core::bind(core::parse_yaml(fmt::format("{{strategy: {}}}", strategy), "a.yaml"), config, "replication");
    const quant::WeightConfig weight =
        quant::quant_config("{weight: {bits: 2, symmetry: midrise, group_size: 32}}").weight;
    EXPECT_THAT(core::message_of([&] { coding_of(config)(slot, weight, 1); }),
                HasSubstr(fmt::format("quant.weight.symmetry is not read with replication.strategy: {}.", strategy)));
    config.select.policy = "every";
    const quant::CodingOf some = coding_of(config, std::set<std::string>{"layer"});
    EXPECT_EQ(some(slot, weight, 1).format->name(), strategy);
    EXPECT_EQ(some(slot, weight, 1).format->config().symmetry, "asymmetric");
    EXPECT_EQ(some(slot, weight, 1).format->config().group_size, 32);
    EXPECT_EQ(some(other, weight, 1).format->config().symmetry, "midrise");
  }
}

TEST(Select, MistakesAreTold) {
  const Select select;
  const auto message = [&](const char* yaml) { return core::message_of([&] { select.linears(yaml); }); };
  EXPECT_EQ(message("{policy: list, list: [model.layers.9]}"),
            "a.yaml:1: replication.select.list: `model.layers.9` is no linear of this model. They are named like "
            "model.layers.2.mlp.down_proj.");
  EXPECT_EQ(message("{policy: list, list: []}"),
            "a.yaml:1: replication.select.list: the list is empty. Name a linear, e.g. model.layers.0.mlp.up_proj.");
  EXPECT_EQ(message("{policy: pattern, pattern: \"*.q_proj\"}"),
            "a.yaml:1: replication.select.pattern: `*.q_proj` matches no linear of this model. They are named like "
            "model.layers.0.mlp.up_proj.");
  EXPECT_EQ(message("{policy: random, fraction: 0.01}"),
            "a.yaml:1: replication.select.fraction: 0.01 of 6 units is none. Raise it.");
  EXPECT_EQ(message("{policy: every, fraction: 0.5}"),
            "a.yaml:1: replication.select.fraction is not read with policy: every. Remove one of the two.");
}

}  // namespace
}  // namespace replication
