// What a configuration expects: who is meant, what is missed, and how a file is rewritten.
#include "experiments/config/expect.h"

#include <gmock/gmock.h>

#include "experiments/results/check_expect.h"
#include "tests/io/support.h"

namespace experiments {
namespace {

using core::message_of;
using ::testing::ElementsAre;
using ::testing::IsEmpty;
using Json = nlohmann::ordered_json;

constexpr const char* kModelHead = "name: n\nmodel: {path: m}\n";

// What results.json of a run holds that these tests look at.
Json results(double ppl, int64_t bits = 2) {
  return {{"id", "f00d"},
          {"hashes", {{"codes", "c0de"}}},
          {"quantized", {{"perplexity", {{{"ppl", ppl}, {"tokens", 63}}}}}},
          {"bits", {{"codes", bits}, {"file", nullptr}}}};
}

class Expect : public ::testing::Test {
 protected:
  std::vector<Point> read(const std::string& yaml) {
    return read_points(scratch_.put("a.yaml", kModelHead + yaml), {});
  }
  std::string without_directory(std::string text) const {
    const std::string prefix = scratch_.path() + "/";
    for (size_t at; (at = text.find(prefix)) != std::string::npos;) text.erase(at, prefix.size());
    return text;
  }
  std::string error(const std::string& yaml) {
    return without_directory(message_of([&] { read(yaml); }));
  }
  // The lines of a file with one point.
  std::vector<std::string> missed(const std::string& yaml, const Json& row) {
    const std::vector<Point> points = read(yaml);
    std::vector<std::string> lines = misses(points.at(0), row);
    for (std::string& line : lines) line = without_directory(line);
    return lines;
  }
  // The lines that updating prints, and then the file as it was left.
  std::vector<std::string> updated(const std::string& yaml, const std::vector<Json>& results) {
    const std::vector<Point> points = read(yaml);
    const std::vector<Row> rows(results.begin(), results.end());
    std::vector<std::string> lines = update_expectations(scratch_.file("a.yaml"), points, rows);
    for (std::string& line : lines) line = without_directory(line);
    lines.push_back(core::slurp(scratch_.file("a.yaml")).substr(std::string(kModelHead).size()));
    return lines;
  }
  std::string update_error(const std::string& yaml, const std::vector<Json>& rows) {
    return without_directory(message_of([&] { updated(yaml, rows); }));
  }

  core::Scratch scratch_;
};

// ---- before the run ----

TEST_F(Expect, WhatIsNoExpectationIsRefusedBeforeTheRun) {
  EXPECT_EQ(error("expect: 3\n"),
            "a.yaml:3: expect must be a map of paths in results.json to bounds, not `3`. Write e.g. "
            "\"quantized.perplexity[0].ppl\": {max: 21.4}.");
  EXPECT_EQ(error("expect: {a.b: 3}\n"),
            "a.yaml:3: expect.a.b must be a map of bounds, not `3`. Write e.g. {max: 21.4}.");
  EXPECT_EQ(error("expect: {a.b: []}\n"), "a.yaml:3: expect.a.b is an empty list. Give bounds, or remove it.");
  EXPECT_EQ(error("expect: {\"a[x]\": {max: 1}}\n"),
            "a.yaml:3: expect: `a[x]` is not the path of a key. Write names joined by dots, and list items as a[0].b.");
  EXPECT_EQ(error("expect: {a.b: {mx: 3}}\n"),
            "a.yaml:3: expect.a.b.mx is not a known key. Did you mean `max`? Known keys: min, max, equal, tolerance, "
            "point.");
  EXPECT_EQ(error("expect: {a.b: {max: x}}\n"),
            "a.yaml:3: expect.a.b.max must be a finite number, not `x`. Write a number.");
  EXPECT_EQ(error("expect: {a.b: [{max: 1}, {point: {}}]}\n"),
            "a.yaml:3: expect.a.b[1].min is missing, and so are max and equal. Give one of them.");
  EXPECT_EQ(error("expect: {a.b: {min: 1, equal: 2}}\n"),
            "a.yaml:3: expect.a.b.equal stands alone. Take min and max out.");
  EXPECT_EQ(error("expect: {a.b: {min: 3, max: 2}}\n"), "a.yaml:3: expect.a.b.min is above max = 2. Lower it.");
  EXPECT_EQ(error("expect: {a.b: {equal: [1]}}\n"),
            "a.yaml:3: expect.a.b.equal must be a number or a text, not a list.");
  EXPECT_EQ(error("expect: {a.b: {max: 1, tolerance: 1}}\n"),
            "a.yaml:3: expect.a.b.tolerance needs a number in `equal`. Take it out.");
  EXPECT_EQ(error("expect: {a.b: {equal: x, tolerance: 1}}\n"),
            "a.yaml:3: expect.a.b.tolerance needs a number in `equal`. Take it out.");
  EXPECT_EQ(error("expect: {a.b: {equal: 1, tolerance: -1}}\n"),
            "a.yaml:3: expect.a.b.tolerance is out of range: -1. Write a number in [0, inf).");
  EXPECT_EQ(error("expect: {a.b: {max: 1, point: 3}}\n"),
            "a.yaml:3: expect.a.b.point must be a map of dotted keys to values, not `3`.");
  EXPECT_EQ(error("expect: {a.b: {max: 1, point: {quant.weight.bits: 3}}}\n"),
            "a.yaml:3: expect.a.b.point is none of the runs. Give keys and values of a run, e.g. "
            "{quant.weight.bits: 4}.");
  EXPECT_EQ(error("sweep: {cases: [{expect: {}}]}\n"),
            "a.yaml:3 (sweep.cases[0]): expect holds for the whole file. Take it out of the sweep.");
}

TEST_F(Expect, IsGivenToThePointsThatItMeans) {
  const std::vector<Point> points = read(
      "sweep: {grid: {quant.weight.bits: [2, 3]}}\n"
      "seeds: [1, 2]\n"
      "expect:\n"
      "  a: {max: 1}\n"
      "  b: [{max: 1, point: {quant.weight.bits: 2}}, {max: 1, point: {quant.weight.bits: 3.0, seed: 2}}]\n");
  std::vector<size_t> counts;
  for (const Point& point : points) counts.push_back(point.expect.size());
  EXPECT_THAT(counts, ElementsAre(2u, 2u, 1u, 2u));
  EXPECT_TRUE(points[0].spec.expect.is_null()) << "not part of the resolved file";
}

// ---- after the run ----

TEST_F(Expect, BoundsAreInclusive) {
  const std::string path = "expect: {\"quantized.perplexity[0].ppl\": ";
  EXPECT_THAT(missed(path + "{max: 21.5}}", results(21.5)), IsEmpty());
  EXPECT_THAT(missed(path + "{min: 21.5, max: 22}}", results(21.5)), IsEmpty());
  EXPECT_THAT(missed(path + "{equal: 21.25, tolerance: 0.25}}", results(21.5)), IsEmpty());
  EXPECT_THAT(missed("expect: {hashes.codes: {equal: c0de}, bits.codes: {equal: 2.0}}", results(1)), IsEmpty());
}

TEST_F(Expect, EveryMissIsOneLine) {
  EXPECT_THAT(missed("expect:\n  \"quantized.perplexity[0].ppl\": {max: 21.4}\n", results(22.25)),
              ElementsAre("a.yaml:4: expect.quantized.perplexity[0].ppl.max: the result is 22.25, above 21.4."));
  EXPECT_THAT(missed("expect: {bits.codes: {min: 3, max: 4}}", results(1)),
              ElementsAre("a.yaml:3: expect.bits.codes.min: the result is 2, below 3."));
  EXPECT_THAT(missed("expect: {bits.codes: {equal: 3, tolerance: 0.5}}", results(1)),
              ElementsAre("a.yaml:3: expect.bits.codes.equal: the result is 2, not 3 ± 0.5."));
  EXPECT_THAT(missed("expect: {hashes.codes: {equal: beef}}", results(1)),
              ElementsAre("a.yaml:3: expect.hashes.codes.equal: the result is c0de, not beef."));
  EXPECT_THAT(missed("expect: {bits.file: {max: 3}}", results(1)),
              ElementsAre("a.yaml:3: expect.bits.file.max: the result is null, above 3."));
  EXPECT_THAT(missed("sweep: {grid: {seed: [1]}}\nexpect: {\"quantized.perplexity[1].ppl\": {max: 3}}", results(1)),
              ElementsAre("a.yaml:4: expect.quantized.perplexity[1].ppl.max: results.json has no "
                          "`quantized.perplexity[1].ppl` (seed=1)."));
}

// ---- --update-expect ----

TEST_F(Expect, UpdatingChangesTheMissedNumbersAndNothingElse) {
  const std::string before =
      "# a comment\n"
      "expect:   # odd   spacing stays\n"
      "    \"quantized.perplexity[0].ppl\":\n"
      "      - {max: 21.4, min: 1}   # was 21.3 once\n"
      "    'bits.codes': {equal: 3, tolerance: 0.25}\n"
      "    hashes.codes: { equal: \"beef\" }  # of the codes\n"
      "quant:   {weight: {bits: 2}}\n";
  const std::string after =
      "# a comment\n"
      "expect:   # odd   spacing stays\n"
      "    \"quantized.perplexity[0].ppl\":\n"
      "      - {max: 22.1235, min: 1}   # was 21.3 once\n"
      "    'bits.codes': {equal: 2, tolerance: 0.25}\n"
      "    hashes.codes: { equal: c0de }  # of the codes\n"
      "quant:   {weight: {bits: 2}}\n";
  EXPECT_THAT(updated(before, {results(22.12341)}),
              ElementsAre("a.yaml:7: expect.bits.codes.equal: 3 ± 0.25 -> 2",
                          "a.yaml:8: expect.hashes.codes.equal: beef -> c0de",
                          "a.yaml:6: expect.quantized.perplexity[0].ppl[0].max: 21.4 -> 22.1235", after));
  EXPECT_THAT(updated(after, {results(22.12341)}), ElementsAre(after)) << "nothing is missed any more";
}

TEST_F(Expect, AnUpdatedBoundHoldsForAllRunsThatItIsMeantFor) {
  const std::string sweep = "sweep: {grid: {seed: [1, 2, 3]}}\n", path = "quantized.perplexity[0].ppl";
  const std::vector<Json> rows{results(2), results(4.00000049), results(3)};
  EXPECT_THAT(updated(sweep + "expect: {\"" + path + "\": {max: 1}}", rows),
              ElementsAre("a.yaml:4: expect.quantized.perplexity[0].ppl.max: 1 -> 4.00001",
                          sweep + "expect: {\"" + path + "\": {max: 4.00001}}"));
  EXPECT_THAT(updated(sweep + "expect: {\"" + path + "\": {min: 9}}", rows).at(0),
              "a.yaml:4: expect.quantized.perplexity[0].ppl.min: 9 -> 2");
  EXPECT_THAT(updated(sweep + "expect: {\"" + path + "\": {equal: 9, tolerance: 2}}", rows).at(0),
              "a.yaml:4: expect.quantized.perplexity[0].ppl.equal: 9 ± 2 -> 3");
  EXPECT_EQ(update_error(sweep + "expect: {\"" + path + "\": {equal: 9, tolerance: 0.5}}", rows),
            "a.yaml:4: expect.quantized.perplexity[0].ppl.equal: the runs have different values, 2 to 4.00000049. Give "
            "each its own with `point`.");
  Json failed{{"swept", Json::object()}, {"failed", "no"}};
  EXPECT_THAT(updated(sweep + "expect: {\"" + path + "\": {max: 1}}", {results(2), failed, results(3)}).at(0),
              "a.yaml:4: expect.quantized.perplexity[0].ppl.max: 1 -> 3");
}

TEST_F(Expect, WhatCannotBeUpdatedSaysSo) {
  EXPECT_EQ(update_error("expect: {bits.cods: {max: 1}}", {results(1)}),
            "a.yaml:3: expect.bits.cods.max: results.json of f00d has no `bits.cods`. Correct the path.");
  EXPECT_EQ(update_error("expect: {bits.file: {max: 1}}", {results(1)}),
            "a.yaml:3: expect.bits.file.max: the result is null, not a number. Use equal.");
  EXPECT_EQ(update_error("expect: {bits.codes: {max: &anchor 1}}", {results(1)}),
            "a.yaml: expect.bits.codes.max is written in a way that is not edited (anchor, alias, escapes or several "
            "lines). Change it to 2 by hand.");
}

}  // namespace
}  // namespace experiments
