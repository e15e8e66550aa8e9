// The table of controls: every row says all that keys, documents and mixes need.
#include "replication/controls.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/config/node.h"
#include "replication/config.h"
#include "tests/io/support.h"

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
                              const std::string& select = "{}", const std::set<int64_t>& widths = {128, 256}) {
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
  for (const ControlRun& run :
       row.runs(row, {document, given, single, selection, "a.yaml:1: controls", [&] { return widths; }}))
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

// "2 bits: 128, 64, 32; 3 bits: 64"
std::string curve_on(const std::set<int64_t>& widths) {
  std::string text;
  int64_t bits = 0;
  for (const std::string& run : runs("curve", "{bits: 2}", "{}", widths)) {
    const core::Node document = core::parse_yaml(run, "a.yaml");
    quant::WeightConfig weight;
    core::bind(*core::lookup(document, "quant.weight"), weight, "quant.weight");
    text += weight.bits == bits ? ", " : fmt::format("{}{} bits: ", bits == 0 ? "" : "; ", weight.bits);
    text += std::to_string(weight.group_size);
    bits = weight.bits;
  }
  return text;
}

TEST(Controls, TheCurveTakesTheGroupsThatDivideEveryWidth) {
  EXPECT_EQ(curve_on({128, 256}), "2 bits: 128, 64, 32; 3 bits: 64");
  EXPECT_EQ(curve_on({384}), "2 bits: 192, 128, 96, 64, 32; 3 bits: 64");
  EXPECT_EQ(curve_on({576, 1536}), "2 bits: 192, 96, 64, 32; 3 bits: 64") << "SmolLM2-135M";
  EXPECT_EQ(curve_on({96, 192}), "2 bits: 96, 32; 3 bits: 96") << "without 64 a bit more is in the largest groups";
  EXPECT_EQ(curve_on({160}), "2 bits: 32; 3 bits: 32");
  EXPECT_EQ(core::message_of([] {
              curve_on({100, 128});
            }),
            "a.yaml:1: controls: curve needs one group size for all linears, and of 192, 128, 96, 64, 32 none divides "
            "all of their input widths, 100, 128. Leave curve out, or give linears a group_size of their own in "
            "quant.rules.");
}

TEST(Controls, TheRunOfABitMoreNamesItsGroups) {
  using Swept = std::vector<std::pair<std::string, std::string>>;
  const core::Node document;
  const quant::WeightConfig weight;
  const Control& curve = *find_control(kCurve);
  const std::vector<ControlRun> made =
      curve.runs(curve, {document, weight, weight, {}, "", [] { return std::set<int64_t>{96}; }});
  EXPECT_EQ(made.front().swept, (Swept{{"quant.weight.group_size", "96"}}));
  EXPECT_EQ(made.back().swept, (Swept{{"quant.weight.group_size", "96"}, {"quant.weight.bits", "5"}}));
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
