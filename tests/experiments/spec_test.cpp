// From a document to its points: grid, cases and both, who wins, and whom an error names.
#include <gmock/gmock.h>

#include "core/config/nearest.h"
#include "experiments/config/points.h"
#include "experiments/measure/perplexity.h"
#include "tests/io/support.h"

namespace experiments {
namespace {

using core::message_of;
using ::testing::ElementsAre;

constexpr const char* kHead = "name: n\nmodel: {path: m}\nquant: {weight: {bits: 5}}\n";

// The points of a document, read from a file whose messages begin with "<directory>/a.yaml".
class Points : public ::testing::Test {
 protected:
  std::vector<Point> read(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
    return read_points(scratch_.put("a.yaml", kHead + yaml), overrides);
  }
  // The message, with the directory taken away.
  std::string error(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
    std::string message = message_of([&] { read(yaml, overrides); });
    const std::string prefix = scratch_.path() + "/";
    for (size_t at; (at = message.find(prefix)) != std::string::npos;) message.erase(at, prefix.size());
    return message;
  }
  // "2/64 3/64": bits and group size of all points.
  std::string shapes(const std::string& yaml, const std::vector<std::string>& overrides = {}) {
    std::string text;
    for (const Point& point : read(yaml, overrides)) {
      const quant::WeightConfig& weight = point.spec.quant.weight;
      text += (text.empty() ? "" : " ") + std::to_string(weight.bits) + "/" + std::to_string(weight.group_size);
    }
    return text;
  }

 private:
  core::Scratch scratch_;
};

TEST_F(Points, AFileWithoutASweepIsOnePoint) {
  const std::vector<Point> points = read("");
  ASSERT_EQ(points.size(), 1u);
  EXPECT_EQ(points[0].spec.quant.weight.bits, 5);
  EXPECT_TRUE(points[0].swept.empty());
}

TEST_F(Points, AGridIsTheProductOfItsListsTheLastKeyFastest) {
  EXPECT_EQ(shapes("sweep: {grid: {quant.weight.bits: [2, 3], quant.weight.group_size: [64, -1, 0]}}"),
            "2/64 2/-1 2/0 3/64 3/-1 3/0");
}

TEST_F(Points, CasesAreOnePointEachInTheirOrder) {
  EXPECT_EQ(shapes("sweep: {cases: [{quant.weight.bits: 8}, {quant.weight.group_size: 32}, {}]}"), "8/64 5/32 5/64");
}

TEST_F(Points, CasesAndGridTogetherAreEveryCaseTimesTheGrid) {
  EXPECT_EQ(shapes("sweep:\n  grid: {quant.weight.bits: [2, 3]}\n  cases: [{quant.weight.group_size: 32}, "
                   "{quant.weight.group_size: 16}]"),
            "2/32 3/32 2/16 3/16");
}

TEST_F(Points, APointRemembersWhatWasSweptAsText) {
  const std::vector<Point> points =
      read("sweep:\n  cases: [{quant.weight: {bits: 3}}]\n  grid: {quant.weight.group_size: [-1]}");
  using Pair = std::pair<std::string, std::string>;
  EXPECT_THAT(points.at(0).swept,
              ElementsAre(Pair("quant.weight", "{bits: 3}"), Pair("quant.weight.group_size", "-1")));
}

TEST_F(Points, AnOverrideWinsOverTheFileAndTheSweepOverBoth) {
  EXPECT_EQ(shapes("", {"quant.weight.bits=7"}), "7/64");
  EXPECT_EQ(shapes("sweep: {grid: {quant.weight.bits: [2]}}", {"quant.weight.bits=7", "quant.weight.group_size=8"}),
            "2/8");
  EXPECT_EQ(shapes("", {"sweep.grid={quant.weight.bits: [1, 2]}"}), "1/64 2/64");
  EXPECT_EQ(shapes("", {"quant.weight.bits=7", "quant.weight.bits=6"}), "6/64") << "the later one";
}

TEST_F(Points, AnOverrideReachesAnItemOfAList) {
  const std::string list = "measure: {perplexity: [{corpus: a, seq_len: 8}, {corpus: b, seq_len: 8}]}";
  const std::vector<Point> points = read(list, {"measure.perplexity[1].seq_len=16"});
  EXPECT_EQ(points.at(0).spec.measure.all<PerplexityConfig>()[0]->seq_len, 8);
  EXPECT_EQ(points.at(0).spec.measure.all<PerplexityConfig>()[1]->seq_len, 16);
}

TEST_F(Points, AnErrorInASweptValueNamesTheSweep) {
  EXPECT_EQ(error("sweep: {grid: {quant.weight.bits: [4, 17]}}"),
            "a.yaml:4 (sweep.grid): quant.weight.bits is out of range: 17. Write a number in [1, 16].");
  EXPECT_EQ(error("sweep:\n  cases:\n    - {}\n    - {quant.weight.bits: x}"),
            "a.yaml:7 (sweep.cases[1]): quant.weight.bits must be an integer, not `x`. Write a number in [1, 16].");
  quant::WeightConfig weight;
  EXPECT_EQ(error("sweep: {grid: {quant.weight.bitz: [4]}}"),
            "a.yaml:4 (sweep.grid): quant.weight.bitz is not a known key. Did you mean `bits`? Known keys: " +
                core::joined(core::keys_of(weight).names()) + ".");
}

TEST_F(Points, AnErrorInAnOverrideNamesTheOverride) {
  EXPECT_EQ(error("", {"quant.weight.bits=12"}),
            "--set quant.weight.bits=12: quant.weight.bits must be 1 to 8, or 16 for full precision, not 12.");
}

TEST_F(Points, ASweepOfTheWrongFormIsRefused) {
  EXPECT_EQ(error("sweep: {grid: [1]}"), "a.yaml:4: sweep.grid must be a map of dotted keys to lists, not a list.");
  EXPECT_EQ(error("sweep: {grid: {quant.weight.bits: 4}}"),
            "a.yaml:4: sweep.grid.quant.weight.bits must be a list of values, not `4`.");
  EXPECT_EQ(error("sweep: {grid: {quant.weight.bits: []}}"),
            "a.yaml:4: sweep.grid.quant.weight.bits must be a list of values, not a list.");
  EXPECT_EQ(error("sweep: {cases: {quant.weight.bits: 4}}"),
            "a.yaml:4: sweep.cases must be a list of maps, not a map. Write one map of dotted keys per run.");
  EXPECT_EQ(error("sweep: {cases: []}"),
            "a.yaml:4: sweep.cases must be a list of maps, not a list. Write one map of dotted keys per run.");
  EXPECT_EQ(error("sweep: {cases: [4]}"), "a.yaml:4: sweep.cases must be a map of dotted keys, not `4`.");
  EXPECT_EQ(error("sweep: {gird: {}}"),
            "a.yaml:4: sweep.gird is not a known key. Did you mean `grid`? Known keys: grid, cases.");
}

TEST_F(Points, ATransformThatCannotBeMeantIsRefused) {
  EXPECT_EQ(error("transform: [{}]"),
            "a.yaml:4: transform[0]: an item names one transform, not 0. Write e.g. - awq: {}.");
  EXPECT_EQ(error("transform: [{awq: {}, smoothquant: {}}]"),
            "a.yaml:4: transform[0]: an item names one transform, not 2. Write e.g. - awq: {}.");
  EXPECT_EQ(error("transform: [{rotate: {}}]"),
            "a.yaml:4: transform[0].rotate is not a known key. Known keys: awq, smoothquant.");
  EXPECT_EQ(error("transform: [{awq: {}}]", {"quant.method=none"}),
            "a.yaml:4: transform: a transform changes nothing by itself, and quant.method: none leaves the model as it "
            "is. Choose a method.");
  EXPECT_EQ(error("transform: [{smoothquant: {}}, {awq: {}}]", {"quant.method=awq"}),
            "a.yaml:4: transform[1].awq: method: awq applies it itself. Remove one of the two.");
}

TEST_F(Points, TransformsStandInTheResolvedFileInTheirOrder) {
  Spec spec = read("transform: [{smoothquant: {}}, {awq: {grid: 5}}]").at(0).spec;
  EXPECT_THAT(core::to_yaml(core::to_node(spec)),
              ::testing::MatchesRegex("(.|\n)*transform:(.|\n)*smoothquant:(.|\n)*alpha: 0.5(.|\n)*awq:(.|\n)*grid: "
                                      "5(.|\n)*quant:(.|\n)*"));
}

TEST_F(Points, ASelectionIsResolvedToWhatItsPolicyReads) {
  const std::string text = "replication: {strategy: low_rank, select: {policy: sensitivity}}";
  Spec spec = read(text).at(0).spec;
  const std::string resolved = core::to_yaml(core::to_node(spec));
  EXPECT_THAT(resolved, ::testing::HasSubstr("fraction: 0.25"));
  EXPECT_THAT(resolved, ::testing::Not(::testing::HasSubstr(" every:")));
  Spec again;
  core::bind(core::parse_yaml(resolved, "resolved.yaml"), again);
  EXPECT_EQ(core::to_yaml(core::to_node(again)), resolved);
}

TEST_F(Points, SeedsMakeOnePointEachTheLastOfTheSweep) {
  const std::vector<Point> points = read("sweep: {grid: {quant.weight.bits: [2, 3]}}\nseeds: [7, 1]");
  ASSERT_EQ(points.size(), 4u);
  using Pair = std::pair<std::string, std::string>;
  EXPECT_THAT(points[1].swept, ElementsAre(Pair("quant.weight.bits", "2"), Pair("seed", "1")));
  EXPECT_EQ(points[1].spec.seed, 1);
  EXPECT_EQ(points[2].spec.seed, 7);
  EXPECT_EQ(points[2].spec.quant.weight.bits, 3);
}

TEST_F(Points, ARunOfASetOfSeedsIsTheRunWithThatSeed) {
  Spec of_set = read("seeds: [7, 1]").at(1).spec, alone = read("seed: 1").at(0).spec;
  EXPECT_EQ(core::to_yaml(core::to_node(of_set)), core::to_yaml(core::to_node(alone)));
  EXPECT_EQ(read("").at(0).spec.seed, 42);
}

TEST_F(Points, BadSeedsAreRefused) {
  EXPECT_EQ(error("seed: 1\nseeds: [1, 2]"), "a.yaml:5: seeds: seed is given too (a.yaml:4: seed). Keep one of them.");
  EXPECT_EQ(error("seeds: [1, 2]\nsweep: {grid: {seed: [1, 2]}}"),
            "a.yaml:4: seeds: seed is given too (a.yaml:5 (sweep.grid): seed). Keep one of them.");
  EXPECT_EQ(error("seeds: []"), "a.yaml:4: seeds: the list is empty. Name one seed per run, e.g. [1, 2, 3].");
  EXPECT_EQ(error("seeds: [1, 2, 1]"), "a.yaml:4: seeds: seed 1 is there twice. Name each once.");
  EXPECT_EQ(error("seeds: [-1]"), "a.yaml:4: seeds[0] is out of range: -1. Write a number in [0, 4294967295].");
  EXPECT_EQ(error("seed: 0.5"), "a.yaml:4: seed must be an integer, not `0.5`. Write a number in [0, 4294967295].");
  EXPECT_EQ(error("sweep: {cases: [{seeds: [1]}]}"),
            "a.yaml:4 (sweep.cases[0]): seeds holds for the whole file. Take it out of the sweep.");
}

TEST_F(Points, WhatHoldsForTheWholeFileIsNotSwept) {
  EXPECT_EQ(error("sweep: {grid: {name: [a, b]}}"),
            "a.yaml:4 (sweep.grid): name holds for the whole file. Take it out of the sweep.");
  EXPECT_EQ(error("sweep: {cases: [{out: a}]}"),
            "a.yaml:4 (sweep.cases[0]): out holds for the whole file. Take it out of the sweep.");
  EXPECT_EQ(error("sweep: {cases: [{sweep.grid: {quant.weight.bits: [2]}}]}"),
            "a.yaml:4 (sweep.cases[0]): sweep.grid holds for the whole file. Take it out of the sweep.");
}

TEST_F(Points, AKeyThatIsSweptTwiceIsRefused) {
  EXPECT_EQ(error("sweep:\n  grid: {quant.weight.bits: [2]}\n  cases: [{quant.weight.bits: 3}]"),
            "a.yaml:5 (sweep.grid): quant.weight.bits is in sweep.cases too. Take it out of one of them.");
}

TEST_F(Points, AMapBehindOneOfItsKeysIsRefused) {
  EXPECT_EQ(error("sweep: {cases: [{quant.weight.clip: 0.9, quant.weight: {bits: 2}}]}"),
            "a.yaml:4 (sweep.cases[0]): quant.weight replaces quant.weight.clip, which the same run sets before it. "
            "Write that key inside of it.");
  EXPECT_EQ(error("sweep:\n  grid: {quant.weight: [{bits: 2}]}\n  cases: [{quant.weight.clip: 0.9}]"),
            "a.yaml:5 (sweep.grid): quant.weight replaces quant.weight.clip, which the same run sets before it. "
            "Write that key inside of it.");
  EXPECT_EQ(read("sweep: {cases: [{quant.weight: {bits: 2}, quant.weight.clip: 0.9}]}").at(0).spec.quant.weight.clip,
            0.9);
}

TEST_F(Points, CopiesOfASpecAreIndependent) {
  const Spec spec = read("measure: {perplexity: [{corpus: a}]}").at(0).spec;
  const auto text = [](Spec of) { return core::to_yaml(core::to_node(of)); };
  const std::string before = text(spec);
  Spec copy = spec;
  core::bind(
      core::parse_yaml("{quant: {gptq: {damp: 0.5}}, replication: {low_rank: {rank: 9}}, name: n, model: {path: m}, "
                       "transform: [{awq: {grid: 7}}], measure: {perplexity: [{corpus: b}], latency: {generate: 3}}}",
                       "copy.yaml"),
      copy);
  EXPECT_NE(text(copy), before);
  EXPECT_EQ(text(spec), before);
}

// ---- keys that a point does not read ----

TEST_F(Points, AKeyOfTheWholeFileThatOnePointDoesNotReadIsInactiveThere) {
  // A file with its own quant section.
  const auto whole = [](const std::string& yaml) {
    const core::Scratch scratch;
    return read_points(scratch.put("b.yaml", "name: n\nmodel: {path: m}\n" + yaml), {});
  };
  const std::string shared = "quant: {method: ldlq, weight: {bits: 2, range: mse, clip: 0.9}}\nsweep:\n  cases:\n";
  const std::vector<Point> points =
      whole(shared + "    - {replication.strategy: none}\n" +
            "    - {replication: {strategy: parity_sign, parity_sign: {window_bits: 8}}}");
  ASSERT_EQ(points.size(), 2u);
  EXPECT_TRUE(points[0].inactive.empty());
  EXPECT_EQ(points[0].spec.quant.weight.range, "mse");
  ASSERT_EQ(points[1].inactive.size(), 1u);
  EXPECT_EQ(points[1].inactive[0].key, "quant.weight.range");
  EXPECT_EQ(points[1].inactive[0].value, "mse");
  EXPECT_EQ(points[1].inactive[0].reason, "replication.strategy: parity_sign");
  EXPECT_EQ(points[1].spec.quant.weight.clip, 0.9) << "it is read";
  // The same as without the key, in every number that the id depends on.
  Spec without = whole(
                     "quant: {method: ldlq, weight: {bits: 2, clip: 0.9}}\nreplication: {strategy: parity_sign, "
                     "parity_sign: {window_bits: 8}}")[0]
                     .spec,
       with = points[1].spec;
  EXPECT_EQ(core::to_yaml(core::to_node(with, true)), core::to_yaml(core::to_node(without, true)));
  const std::vector<Point> tables = whole(
      "quant: {weight: {symmetry: narrow}}\nseeds: [1, 2]\nsweep: {grid: {quant.weight.codebook: [uniform, "
      "lloyd_max]}}");
  ASSERT_EQ(tables.size(), 4u);
  EXPECT_EQ(tables[3].inactive.at(0).reason, "codebook: lloyd_max") << "of every seed";
}

TEST_F(Points, AKeyThatTheCaseItselfSetsOrThatNoPointReadsIsAnError) {
  EXPECT_EQ(error("sweep: {cases: [{quant.weight.codebook: lloyd_max, quant.weight.symmetry: narrow}, {seed: 1}]}"),
            "a.yaml:4 (sweep.cases[0]): quant.weight.symmetry is not read with codebook: lloyd_max. Remove one of the "
            "two.");
  const auto refused = [](const std::string& yaml) {
    const core::Scratch scratch;
    const std::string file = scratch.put("b.yaml", "name: n\nmodel: {path: m}\n" + yaml);
    return message_of([&] { read_points(file, {}); }).substr(scratch.path().size() + 1);
  };
  EXPECT_EQ(refused("quant: {weight: {symmetry: narrow}}\n"
                    "sweep: {grid: {quant.weight.codebook: [normal_float, lloyd_max]}}"),
            "b.yaml:3: quant.weight.symmetry is not read with codebook: normal_float. Remove one of the two.");
  EXPECT_EQ(refused("quant: {weight: {symmetry: narrow, codebook: lloyd_max}}"),
            "b.yaml:3: quant.weight.symmetry is not read with codebook: lloyd_max. Remove one of the two.");
}

TEST_F(Points, WhatEveryExperimentNeedsIsAskedFor) {
  const auto message = [&](const std::string& yaml) {
    const core::Scratch scratch;
    return message_of([&] { read_points(scratch.put("b.yaml", yaml), {}); }).substr(scratch.path().size() + 1);
  };
  EXPECT_EQ(message("model: {path: m}\n"),
            "b.yaml: name: name is missing. Give the experiment one, e.g. name: qwen/group_size.");
  EXPECT_EQ(message("name: n\n"), "b.yaml: model: model.path is missing. Name a model directory, e.g. tiny-qwen3.");
  EXPECT_EQ(message("name: n\nmodel: {path: m}\nmeasure: {perplexity: [{seq_len: 8}]}\n"),
            "b.yaml:3: measure.perplexity[0].corpus: corpus is missing. Name a text, e.g. tiny/test.");
  EXPECT_EQ(message("name: n\nmodel: {path: m}\nout: \"\"\n"),
            "b.yaml:3: out: out is empty. Name a directory, e.g. runs.");
  EXPECT_EQ(message("name: ../n\nmodel: {path: m}\n"),
            "b.yaml:1: name: `../n` is not a folder below runs. Use letters, digits, - and /.");
}

}  // namespace
}  // namespace experiments
