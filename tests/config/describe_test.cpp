// What a configuration says about itself: resolved file, id, help, table, nearest names.
#include <gtest/gtest.h>

#include "core/config/nearest.h"
#include "tests/config/sample.h"

namespace {

using sample::bound;
using sample::Config;
using sample::refusal;

TEST(ToNode, HoldsEveryKeyInOrder) {
  Config config = bound("transform: [{smooth: {}}]\n");
  EXPECT_EQ(core::to_yaml(core::to_node(config)),
            "name: test\n"
            "method: rtn\n"
            "quiet: false\n"
            "seeds: []\n"
            "corpora: [tiny/test]\n"
            "weight:\n"
            "  bits: 4\n"
            "  group_size: 128\n"
            "  clip: 1.0\n"
            "  levels: []\n"
            "  noise:\n"
            "    sigma: 0.0\n"
            "    at: inference\n"
            "rules: []\n"
            "transform:\n"
            "  - smooth:\n"
            "      alpha: 0.5\n");
}

TEST(ToNode, ResolvedFileBindsToTheSameValues) {
  Config config = bound(
      "name: \"08\"\nmethod: none\nseeds: [9223372036854775807]\ncorpora: []\n"
      "weight: {bits: 2, clip: 0.30000000000000004, levels: [-1, 1e-300, 5e-324, .1], noise: {sigma: 1e10}}\n"
      "rules: [{match: '*.down', weight: {bits: 3, noise: {at: train}}}, {match: \"true\"}]\n"
      "transform: [{smooth: {alpha: 0.9}}, {rotate: {}}]\nexpect: {\"a.b[0]\": {max: 2}}\n");
  const core::Node resolved = core::to_node(config);
  Config again = bound(core::to_yaml(resolved));
  EXPECT_EQ(core::to_node(again), resolved) << core::to_yaml(core::to_node(again));
  EXPECT_EQ(again.weight.levels, config.weight.levels);
  EXPECT_EQ(again.weight.clip, config.weight.clip);
  EXPECT_EQ(again.seeds, config.seeds);
  EXPECT_EQ(again.rules[1].match, "true");
  EXPECT_TRUE(again.transform[1].given("rotate"));
  EXPECT_FALSE(again.transform[1].given("smooth"));
}

TEST(ToNode, TheIdDoesNotSeeKeysThatChangeNoResult) {
  Config loud = bound("quiet: false"), quiet = bound("quiet: true"), other = bound("weight: {bits: 2}");
  EXPECT_FALSE(core::to_node(loud) == core::to_node(quiet));
  EXPECT_EQ(core::to_yaml(core::to_node(loud, true)), core::to_yaml(core::to_node(quiet, true)));
  EXPECT_NE(core::to_yaml(core::to_node(loud, true)), core::to_yaml(core::to_node(other, true)));
}

TEST(ToNode, TheSpellingOfANumberDoesNotMatter) {
  Config a = bound("weight: {clip: 1, levels: [0.50, 1e1]}"), b = bound("weight: {clip: 1.0, levels: [.5, 10]}");
  EXPECT_EQ(core::to_yaml(core::to_node(a)), core::to_yaml(core::to_node(b)));
}

TEST(Help, ListsTheKeysOfASection) {
  Config config;
  EXPECT_EQ(core::help(config, "weight"),
            "weight: grid of the weights\n"
            "  bits        bits per weight (integer in [1, 8], default 4)\n"
            "  group_size  weights that share a scale; -1: a row (integer, default 128)\n"
            "  clip        factor on the range (number in (0, 1], default 1.0)\n"
            "  levels      levels of a table (list of numbers, default [])\n"
            "  noise       noise on the weights (section)\n");
  EXPECT_EQ(core::help(config, ""),
            "Keys of a configuration:\n"
            "  name       name of the run (string, default test)\n"
            "  method     how codes are found (one of none, rtn, gptq, default rtn)\n"
            "  quiet      print less (true or false, default false)\n"
            "  seeds      seeds to repeat with (list of integers in [0, inf), default [])\n"
            "  corpora    texts to measure on (list, each one of tiny/test, tiny/train, default [tiny/test])\n"
            "  weight     grid of the weights (section)\n"
            "  rules      exceptions, last match wins (list of sections, default [])\n"
            "  transform  rewrites, in order (list of sections, default [])\n"
            "  expect     a regression test (YAML)\n");
  EXPECT_EQ(core::help(config, "transform.rotate"), "transform.rotate: rotation\n  no keys of its own\n");
}

TEST(Help, DescribesOneKey) {
  Config config;
  EXPECT_EQ(core::help(config, "weight.bits"),
            "weight.bits: bits per weight\n  type     integer in [1, 8]\n  default  4\n");
  EXPECT_EQ(
      core::help(config, "quiet"),
      "quiet: print less\n  type     true or false\n  default  false\n  changes no result: not part of a run's id\n");
  EXPECT_EQ(core::help(config, "rules[0].weight.noise.sigma"),
            "rules.weight.noise.sigma: standard deviation in steps\n  type     number in [0, inf)\n  default  0.0\n");
}

TEST(Help, RefusesAnUnknownKeyAndNamesTheNearest) {
  Config config;
  const auto error = [&](const std::string& path) { return refusal([&] { core::help(config, path); }); };
  EXPECT_EQ(
      error("weight.bit"),
      "--help weight.bit: weight.bit is not a known key. Did you mean `bits`? Known keys: bits, group_size, clip, "
      "levels, noise.");
  EXPECT_EQ(error("wieght.bits").substr(0, 72),
            "--help wieght.bits: wieght is not a known key. Did you mean `weight`? Kn");
  EXPECT_EQ(error("weight.bits.x"),
            "--help weight.bits.x: weight.bits has no keys of its own. Ask for --help weight.bits.");
}

TEST(KeyTable, HasOneTablePerSection) {
  Config config;
  EXPECT_EQ(core::key_table(config),
            "## Top level\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `name` | string | `test` | name of the run |\n"
            "| `method` | one of none, rtn, gptq | `rtn` | how codes are found |\n"
            "| `quiet` | true or false | `false` | print less (not part of a run's id) |\n"
            "| `seeds` | list of integers in [0, inf) | `[]` | seeds to repeat with |\n"
            "| `corpora` | list, each one of tiny/test, tiny/train | `[tiny/test]` | texts to measure on |\n"
            "| `weight` | section |  | grid of the weights |\n"
            "| `rules` | list of sections | `[]` | exceptions, last match wins |\n"
            "| `transform` | list of sections | `[]` | rewrites, in order |\n"
            "| `expect` | YAML |  | a regression test |\n"
            "\n"
            "## `weight`\n"
            "grid of the weights\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `bits` | integer in [1, 8] | `4` | bits per weight |\n"
            "| `group_size` | integer | `128` | weights that share a scale; -1: a row |\n"
            "| `clip` | number in (0, 1] | `1.0` | factor on the range |\n"
            "| `levels` | list of numbers | `[]` | levels of a table |\n"
            "| `noise` | section |  | noise on the weights |\n"
            "\n"
            "## `weight.noise`\n"
            "noise on the weights\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `sigma` | number in [0, inf) | `0.0` | standard deviation in steps |\n"
            "| `at` | one of inference, train | `inference` | when it is drawn |\n"
            "\n"
            "## `rules[]`\n"
            "exceptions, last match wins\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `match` | string | `\"\"` | pattern of module paths |\n"
            "| `weight` | section, any of its keys |  | keys of weight that differ |\n"
            "\n"
            "## `transform[]`\n"
            "rewrites, in order\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `smooth` | section |  | smoothing |\n"
            "| `rotate` | section |  | rotation |\n"
            "\n"
            "## `transform[].smooth`\n"
            "smoothing\n"
            "\n"
            "| key | type | default | meaning |\n"
            "|---|---|---|---|\n"
            "| `alpha` | number in [0, 1] | `0.5` | how much \\| moves |\n"
            "\n"
            "## `transform[].rotate`\n"
            "rotation\n"
            "\n"
            "No keys of its own.\n");
}

TEST(Nearest, IsWithinAThirdOfTheName) {
  const std::vector<std::string> names = {"rtn", "gptq", "awq", "group_size", "perplexity"};
  EXPECT_EQ(core::nearest("goup_size", names), "group_size");
  EXPECT_EQ(core::nearest("gruop_size", names), "group_size");
  EXPECT_EQ(core::nearest("groupsize", names), "group_size");
  EXPECT_EQ(core::nearest("GPTQ", names), "gptq");
  EXPECT_EQ(core::nearest("qptq", names), "gptq");
  EXPECT_EQ(core::nearest("rnt", names), "rtn");
  EXPECT_EQ(core::nearest("perpelxitty", names), "perplexity");
  EXPECT_EQ(core::nearest("size", names), "");
  EXPECT_EQ(core::nearest("", names), "");
  EXPECT_EQ(core::nearest("x", {"y"}), "");
  EXPECT_EQ(core::nearest("x", {}), "");
  EXPECT_EQ(core::nearest(std::string(100'000, 'x'), names), "");
}

TEST(Nearest, PrefersFewerEditsThenTheFirst) {
  EXPECT_EQ(core::nearest("scale", {"scaled", "scales", "scale_"}), "scaled");
  EXPECT_EQ(core::nearest("scales", {"scaled", "Scales"}), "Scales");
  EXPECT_EQ(core::did_you_mean("scals", {"scales"}), " Did you mean `scales`?");
  EXPECT_EQ(core::did_you_mean("x", {"scales"}), "");
  EXPECT_EQ(core::joined({"a", "b"}), "a, b");
}

}  // namespace
