// The table of controls: every row says all that keys, documents and mixes need.
#include "replication/controls.h"

#include <gmock/gmock.h>

#include "core/config/node.h"
#include "replication/config.h"

namespace replication {
namespace {

using ::testing::ElementsAre;

TEST(Controls, AreNamedOnceAndMixExactlyWhereTheyHaveLevels) {
  std::set<std::string> names;
  for (const Control& control : controls()) {
    EXPECT_TRUE(names.insert(control.name).second) << control.name;
    EXPECT_EQ(control.levels != nullptr, control.mixes != Control::Mixes::nothing) << control.name;
    EXPECT_NE(std::string(control.help), "");
    EXPECT_EQ(find_control(control.name), &control);
  }
  EXPECT_EQ(find_control("averaged"), nullptr) << "a rung of the ladder";
}

TEST(Controls, KeysListTheRowsInTheirOrder) {
  ReplicationConfig config;
  const core::Keys keys = core::keys_of(config);
  std::vector<std::string> all, in_place{ReplicationConfig::kNone};
  for (const Control& control : controls()) {
    all.emplace_back(control.name);
    if (control.in_place) in_place.emplace_back(control.name);
  }
  EXPECT_EQ(keys.find("controls")->choices, all);
  EXPECT_EQ(keys.find("control")->choices, in_place);
  for (const Control& control : controls()) {
    EXPECT_THAT(keys.find("controls")->help,
                ::testing::HasSubstr("; " + std::string(control.name) + ": " + control.help));
  }
}

// "replication.control=low_rank", one text per run.
std::vector<std::string> runs(const std::string& control, const std::string& weight = "{bits: 2}",
                              const std::string& select = "{}") {
  const core::Node document =
      core::parse_yaml("{quant: {weight: " + weight + "}, replication: {strategy: shifted}}", "a.yaml");
  quant::WeightConfig given, single;
  core::bind(core::parse_yaml(weight, "a.yaml"), given, "quant.weight");
  single = given;
  single.symmetry = "midrise";
  Selection selection;
  core::bind(core::parse_yaml(select, "a.yaml"), selection, "replication.select");
  const Control& row = *find_control(control);
  std::vector<std::string> texts;
  for (const ControlRun& run : row.runs(row, {document, given, single, selection}))
    texts.push_back(core::to_inline_yaml(run.document));
  return texts;
}

TEST(Controls, MakeTheDocumentsOfTheirRuns) {
  EXPECT_THAT(runs("single", "{bits: 2, zero_point: float}"),
              ElementsAre("{quant: {weight: {bits: 2, symmetry: midrise}}}"));
  EXPECT_THAT(runs("curve"), ElementsAre("{quant: {weight: {bits: 2, symmetry: midrise, group_size: 128}}}",
                                         "{quant: {weight: {bits: 2, symmetry: midrise, group_size: 64}}}",
                                         "{quant: {weight: {bits: 2, symmetry: midrise, group_size: 32}}}",
                                         "{quant: {weight: {bits: 3, symmetry: midrise, group_size: 64}}}"));
  EXPECT_THAT(runs("low_rank"),
              ElementsAre("{quant: {weight: {bits: 2}}, replication: {strategy: shifted, control: low_rank}}"));
  EXPECT_EQ(runs("random_selection").size(), 1u) << "there is nothing to draw where all are selected";
  EXPECT_EQ(runs("random_selection", "{bits: 2}", "{policy: every}").back(),
            "{quant: {weight: {bits: 2}}, replication: {strategy: shifted, control: random_selection, draw: 5}}");
  EXPECT_THAT(runs("followers_removed"),
              ElementsAre("{quant: {weight: {bits: 2}}, replication: {strategy: shifted, control: followers_removed, "
                          "adjacent: {from: first}}}"));
}

TEST(Controls, MixOverTheLinearsTheyAreAbout) {
  core::Slot attention("q", core::Role::q_proj, 1, 1, false), expert("e", core::Role::up_proj, 1, 1, false),
      shared("s", core::Role::up_proj, 1, 1, false);
  expert.set_place({.block = 0, .expert = 1});
  shared.set_place({.block = 0, .is_shared = true});
  const auto mixes = [](const char* control, const core::Slot& slot, bool changed) {
    return find_control(control)->may_mix(slot, changed);
  };
  EXPECT_TRUE(mixes("more_bits", expert, false));
  EXPECT_TRUE(mixes("more_bits_selected", expert, true));
  EXPECT_FALSE(mixes("more_bits_selected", attention, false));
  EXPECT_TRUE(mixes("more_bits_attention", attention, false));
  EXPECT_TRUE(mixes("more_bits_attention", shared, false));
  EXPECT_FALSE(mixes("more_bits_attention", expert, true));
}

}  // namespace
}  // namespace replication
