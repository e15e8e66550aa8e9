// A document into a configuration: values, and the exact message of every refusal.
#include <gtest/gtest.h>

#include "tests/config/sample.h"

namespace {

using sample::bound;
using sample::Config;
using sample::refusal;

std::string error(const std::string& text) {
  return refusal([&] { bound(text); });
}

TEST(Bind, AssignsEveryKindOfKey) {
  const Config config = bound(
      "name: 08\nmethod: gptq\nquiet: true\nseeds: [1, 2]\ncorpora: [tiny/train, tiny/test]\n"
      "weight: {bits: 2, clip: 1, levels: [-1, .5, 1e-3], noise: {sigma: 0.25, at: train}}\n"
      "rules: [{match: '*.down'}, {match: x, weight: {bits: 3}}]\nexpect: {anything: [1]}\n");
  EXPECT_EQ(config.name, "08");
  EXPECT_EQ(config.method, "gptq");
  EXPECT_TRUE(config.quiet);
  EXPECT_EQ(config.seeds, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(config.corpora, (std::vector<std::string>{"tiny/train", "tiny/test"}));
  EXPECT_EQ(config.weight.bits, 2);
  EXPECT_EQ(config.weight.clip, 1.0);
  EXPECT_EQ(config.weight.levels, (std::vector<double>{-1, .5, 1e-3}));
  EXPECT_EQ(config.weight.noise.sigma, 0.25);
  EXPECT_EQ(config.weight.noise.at, "train");
  ASSERT_EQ(config.rules.size(), 2u);
  EXPECT_EQ(config.rules[0].match, "*.down");
  EXPECT_TRUE(config.rules[0].weight.is_null());
  EXPECT_EQ(config.rules[1].weight.find("bits")->scalar, "3");
  EXPECT_EQ(core::to_inline_yaml(config.expect), "{anything: [1]}");
}

TEST(Bind, KeepsDefaultsOfWhatIsNotGiven) {
  const Config config = bound("weight: {group_size: -1}\n");
  EXPECT_EQ(config.weight.group_size, -1);
  EXPECT_EQ(config.weight.bits, 4);
  EXPECT_EQ(config.corpora, (std::vector<std::string>{"tiny/test"}));
  EXPECT_EQ(bound("").weight.bits, 4);
}

TEST(Bind, RefusesAnUnknownKeyAndNamesTheNearest) {
  EXPECT_EQ(error("name: x\nweight:\n  bits: 2\n  goup_size:\n    64\n"),
            "a.yaml:4: weight.goup_size is not a known key. Did you mean `group_size`? Known keys: bits, group_size, "
            "clip, levels, noise.");
  EXPECT_EQ(error("weight: {zzz: 1}\n"),
            "a.yaml:1: weight.zzz is not a known key. Known keys: bits, group_size, clip, levels, noise.");
  EXPECT_EQ(error("transform: [{rotate: {x: 1}}]\n"),
            "a.yaml:1: transform[0].rotate.x is not a known key. Known keys: none.");
  EXPECT_EQ(
      error("metod: x\n"),
      "a.yaml:1: metod is not a known key. Did you mean `method`? Known keys: name, method, quiet, seeds, corpora, "
      "weight, rules, transform, expect.");
  EXPECT_EQ(error("\"a\\nb\": x\n").substr(0, 37), "a.yaml:1: a\\x0ab is not a known key. ");
}

TEST(Bind, RefusesADottedKeyInAFile) {
  EXPECT_EQ(error("weight.bits: 2\n"),
            "a.yaml:1: weight.bits is a path. In a file nest it in `weight`; paths are for --set and sweep.");
}

TEST(Bind, RefusesWhatIsNotAnInteger) {
  const std::string advice = " Write a number in [1, 8].";
  EXPECT_EQ(error("weight:\n  bits: two\n"), "a.yaml:2: weight.bits must be an integer, not `two`." + advice);
  EXPECT_EQ(error("weight: {bits: 2.0}"), "a.yaml:1: weight.bits must be an integer, not `2.0`." + advice);
  EXPECT_EQ(error("weight: {bits: 1e3}"), "a.yaml:1: weight.bits must be an integer, not `1e3`." + advice);
  EXPECT_EQ(error("weight: {bits: 0x2}"), "a.yaml:1: weight.bits must be an integer, not `0x2`." + advice);
  EXPECT_EQ(error("weight: {bits: true}"), "a.yaml:1: weight.bits must be an integer, not `true`." + advice);
  EXPECT_EQ(error("weight: {bits: [2]}"), "a.yaml:1: weight.bits must be an integer, not a list." + advice);
  EXPECT_EQ(error("weight: {bits: {a: 2}}"), "a.yaml:1: weight.bits must be an integer, not a map." + advice);
  EXPECT_EQ(error("weight: {bits: 08}"),
            "a.yaml:1: weight.bits must be an integer, not `08`. Write it without leading zeros: 8.");
  EXPECT_EQ(error("weight: {bits: \"2\"}"),
            "a.yaml:1: weight.bits must be an integer, not `\"2\"`. Write it without quotes.");
  EXPECT_EQ(error("weight: {group_size: x}"),
            "a.yaml:1: weight.group_size must be an integer, not `x`. Write a whole number.");
  EXPECT_EQ(error("weight: {group_size: 9223372036854775808}"),
            "a.yaml:1: weight.group_size must be an integer, not `9223372036854775808`. Write a whole number.");
  EXPECT_EQ(bound("weight: {group_size: -9223372036854775808}").weight.group_size, INT64_MIN);
  EXPECT_EQ(bound("weight: {group_size: +0}").weight.group_size, 0);
}

TEST(Bind, RefusesWhatIsNotAFiniteNumber) {
  for (const std::string text : {".nan", ".inf", "nan", "inf", "1e999", "x", "--1", "1e", "0x1", "."}) {
    EXPECT_EQ(error("weight:\n  clip: " + text + "\n"),
              fmt::format("a.yaml:2: weight.clip must be a finite number, not `{}`. Write a number in (0, 1].", text));
  }
  EXPECT_EQ(error("weight: {levels: [1, x]}"),
            "a.yaml:1: weight.levels[1] must be a finite number, not `x`. Write a number.");
  EXPECT_EQ(bound("weight: {levels: [1., +.5, -2E+1, 007]}").weight.levels, (std::vector<double>{1, .5, -20, 7}));
}

TEST(Bind, RefusesWhatIsOutOfRange) {
  EXPECT_EQ(error("weight:\n  bits: 9\n"), "a.yaml:2: weight.bits is out of range: 9. Write a number in [1, 8].");
  EXPECT_EQ(error("weight: {bits: 0}"), "a.yaml:1: weight.bits is out of range: 0. Write a number in [1, 8].");
  EXPECT_EQ(error("weight: {clip: 0}"), "a.yaml:1: weight.clip is out of range: 0. Write a number in (0, 1].");
  EXPECT_EQ(error("weight: {clip: 1.01}"), "a.yaml:1: weight.clip is out of range: 1.01. Write a number in (0, 1].");
  EXPECT_EQ(error("seeds: [1, -2]"), "a.yaml:1: seeds[1] is out of range: -2. Write a number in [0, inf).");
}

TEST(Bind, RefusesWhatIsNotOneOfTheChoices) {
  EXPECT_EQ(error("method: gptk\n"),
            "a.yaml:1: method: `gptk` is not one of its values. Did you mean `gptq`? Choices: none, rtn, gptq.");
  EXPECT_EQ(error("method: \"\"\n"), "a.yaml:1: method: `` is not one of its values. Choices: none, rtn, gptq.");
  EXPECT_EQ(
      error("corpora: [tiny/test, tiny/tain]\n"),
      "a.yaml:1: corpora[1]: `tiny/tain` is not one of its values. Did you mean `tiny/train`? Choices: tiny/test, "
      "tiny/train.");
}

TEST(Bind, RefusesAWrongKind) {
  EXPECT_EQ(error("quiet: yes\n"), "a.yaml:1: quiet must be true or false, not `yes`. Write true or false.");
  EXPECT_EQ(error("quiet: 'true'\n"), "a.yaml:1: quiet must be true or false, not `\"true\"`. Write true or false.");
  EXPECT_EQ(error("name: [a]\n"), "a.yaml:1: name must be a string, not a list. Write one value.");
  EXPECT_EQ(error("method: {a: 1}\n"), "a.yaml:1: method must be a string, not a map. Choices: none, rtn, gptq.");
  EXPECT_EQ(error("seeds: 3\n"), "a.yaml:1: seeds must be a list, not `3`. Write a list of integers in [0, inf): [3].");
  EXPECT_EQ(error("weight: {levels: {a: 1}}\n"),
            "a.yaml:1: weight.levels must be a list, not a map. Write a list of numbers.");
  EXPECT_EQ(error("weight: 3\n"),
            "a.yaml:1: weight must be a map, not `3`. Known keys: bits, group_size, clip, levels, noise.");
  EXPECT_EQ(error("rules: {match: x}\n"), "a.yaml:1: rules must be a list, not a map. Begin each item with `-`.");
  EXPECT_EQ(error("rules:\n- match: x\n- y\n"),
            "a.yaml:3: rules[1] must be a map, not `y`. Known keys: match, weight.");
  EXPECT_EQ(
      error("- 1\n"),
      "a.yaml: the configuration must be a map, not a list. Known keys: name, method, quiet, seeds, corpora, weight, "
      "rules, transform, expect.");
}

TEST(Bind, RefusesNull) {
  EXPECT_EQ(error("name: a\nweight:\n  bits:\n"),
            "a.yaml:3: weight.bits has no value. Write one (integer in [1, 8]), or remove the key.");
  EXPECT_EQ(error("weight:\nname: a\n"), "a.yaml:1: weight has no value. Write one (section), or remove the key.");
  EXPECT_EQ(error("seeds: [1, ~]\n"),
            "a.yaml:1: seeds[1] has no value. Write one (list of integers in [0, inf)), or remove the key.");
  EXPECT_EQ(error("rules: [~]\n"), "a.yaml:1: rules[0] has no value. Write its keys, or remove the item.");
  EXPECT_EQ(error("expect: null\n"), "a.yaml:1: expect has no value. Write one (YAML), or remove the key.");
}

TEST(Bind, ErrorsOfOverridesNameTheOverride) {
  core::Node root = core::parse_yaml("weight: {bits: 2}\n", "a.yaml");
  auto [path, value] = core::parse_override("weight.bits=9");
  core::assign(root, path, std::move(value));
  Config config;
  EXPECT_EQ(refusal([&] { core::bind(root, config); }),
            "--set weight.bits=9: weight.bits is out of range: 9. Write a number in [1, 8].");
}

TEST(Bind, RunsRulesAcrossKeysOnEverySection) {
  EXPECT_EQ(error("weight:\n  bits: 1\n  clip: 0.5\n"),
            "a.yaml:3: weight.clip needs at least 2 bits. Raise bits, or remove it.");
  EXPECT_EQ(error("weight:\n  clip: 0.5\n"), "");
}

TEST(Bind, ListItemsStartFromTheirDefaults) {
  Config config = bound("transform: [{smooth: {alpha: 0.9}}, {rotate: {}}]\n");
  ASSERT_EQ(config.transform.size(), 2u);
  EXPECT_EQ(config.transform[0].smooth.alpha, 0.9);
  EXPECT_EQ(config.transform[1].smooth.alpha, 0.5);
  EXPECT_TRUE(config.transform[0].given("smooth"));
  EXPECT_FALSE(config.transform[0].given("rotate"));
  EXPECT_TRUE(config.transform[1].given("rotate"));
  core::bind(core::parse_yaml("transform: []", "b.yaml"), config);
  EXPECT_TRUE(config.transform.empty());
}

TEST(Bind, WherePointsAtTheKeyOrElseItsSection) {
  const Config config = bound("name: x\nweight:\n  bits: 2\nrules:\n  - match: x\n");
  EXPECT_EQ(config.where("name"), "a.yaml:1: name");
  EXPECT_EQ(config.where("seeds"), "a.yaml: seeds");
  EXPECT_EQ(config.weight.where("bits"), "a.yaml:3: weight.bits");
  EXPECT_EQ(config.weight.where("clip"), "a.yaml:2: weight.clip");
  EXPECT_EQ(config.weight.noise.where("sigma"), "a.yaml:2: weight.noise.sigma");
  EXPECT_EQ(config.rules[0].where("match"), "a.yaml:5: rules[0].match");
  EXPECT_TRUE(config.weight.given("bits"));
  EXPECT_FALSE(config.weight.given("clip"));
  EXPECT_EQ(sample::Weight().where("bits"), "bits");
}

TEST(Bind, APartialSectionIsCheckedNowAndAppliedLater) {
  const std::string rule = "rules:\n  - match: x\n    weight:\n      ";
  EXPECT_EQ(
      error(rule + "bit: 3\n"),
      "a.yaml:4: rules[0].weight.bit is not a known key. Did you mean `bits`? Known keys: bits, group_size, clip, "
      "levels, noise.");
  EXPECT_EQ(error(rule + "bits: 9\n"), "a.yaml:4: rules[0].weight.bits is out of range: 9. Write a number in [1, 8].");
  EXPECT_EQ(error(rule + "noise: {sigma: x}\n"),
            "a.yaml:4: rules[0].weight.noise.sigma must be a finite number, not `x`. Write a number in [0, inf).");

  const Config config =
      bound("weight: {group_size: 64, clip: 0.5, noise: {at: train}}\n" + rule + "noise: {sigma: 2}\n");
  sample::Weight weight = config.weight;
  core::bind(config.rules[0].weight, weight, "rules[0].weight");
  EXPECT_EQ(weight.group_size, 64);
  EXPECT_EQ(weight.noise.sigma, 2.0);
  EXPECT_EQ(weight.noise.at, "train");
  EXPECT_EQ(weight.noise.where("sigma"), "a.yaml:5: rules[0].weight.noise.sigma");
  EXPECT_EQ(weight.where("clip"), "a.yaml:1: weight.clip");
  EXPECT_EQ(config.weight.noise.sigma, 0.0);
}

TEST(Bind, RulesAcrossKeysSeeAPartialSectionOverItsBase) {
  const Config config = bound("weight: {clip: 0.5}\nrules:\n  - {match: x, weight: {bits: 1}}\n");
  sample::Weight weight = config.weight;
  EXPECT_EQ(refusal([&] { core::bind(config.rules[0].weight, weight, "rules[0].weight"); }),
            "a.yaml:1: weight.clip needs at least 2 bits. Raise bits, or remove it.");
}

// Our own bugs are not the user's mistakes.
struct BadDefault : core::Section {
  int64_t bits = 9;
  void keys(core::Keys& k) override { k.key("bits", bits, "", {1, 8}); }
};
struct BadChoice : core::Section {
  std::string method;
  void keys(core::Keys& k) override { k.key("method", method, "", {"a", "b"}); }
};
struct Twice : core::Section {
  int64_t a = 1, b = 1;
  void keys(core::Keys& k) override {
    k.key("a", a, "");
    k.key("a", b, "");
  }
};

TEST(Bind, ADeclarationThatContradictsItselfIsABug) {
  BadDefault bad_default;
  BadChoice bad_choice;
  Twice twice;
  EXPECT_THROW(core::bind(core::Node(), bad_default), std::logic_error);
  EXPECT_THROW(core::bind(core::Node(), bad_choice), std::logic_error);
  EXPECT_THROW(core::bind(core::Node(), twice), std::logic_error);
}

}  // namespace
