// The table of a sweep from the rows of results.json.
#include "experiments/results/table.h"

#include <gmock/gmock.h>

namespace experiments {
namespace {

using ::testing::ElementsAre;
using Json = nlohmann::ordered_json;

Json measurement(const std::string& corpus, double ppl) {
  return {{"corpus", corpus}, {"protocol", "gptq"}, {"seq_len", 64}, {"ppl", ppl}, {"ppl_stderr", 0.25}};
}

Json finished(const Json& swept, std::vector<Json> full, std::vector<Json> quantized) {
  return {{"swept", swept},
          {"baseline", full.empty() ? Json(nullptr) : Json{{"perplexity", full}}},
          {"quantized", {{"perplexity", quantized}}},
          {"bits", {{"with_parameters", 2.28125}}},
          {"stages", {{{"seconds", 1.5}}, {{"seconds", 0.75}}}}};
}

TEST(Table, HasTheFullPrecisionModelFirstAndThenEveryRun) {
  const Table table = make_table({finished({{"quant.weight.bits", "2"}}, {measurement("a", 8)}, {measurement("a", 10)}),
                                  {{"swept", {{"quant.weight.bits", "3"}}}, {"failed", "the disk is full"}}});
  EXPECT_THAT(table.columns, ElementsAre("bits", "bits/weight", "ppl a (gptq 64)", "±", "change", "seconds"));
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_THAT(table.rows[0], ElementsAre("full precision", "–", "8.0000", "0.2500", "+0.00 %", "–"));
  EXPECT_THAT(table.rows[1], ElementsAre("2", "2.2812", "10.0000", "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows[2], ElementsAre("3", "failed: the disk is full", "–", "–", "–", "–"));
}

TEST(Table, OfAModelWithoutFullPrecisionShowsNoChange) {
  const Table table = make_table({finished(Json::object(), {}, {measurement("a", 10)})});
  ASSERT_EQ(table.rows.size(), 1u);
  EXPECT_THAT(table.rows[0], ElementsAre("quantized", "2.2812", "10.0000", "0.2500", "–", "2.2"));
}

TEST(Table, KeysThatEndAlikeKeepTheirFullNames) {
  const Table table = make_table({finished(
      {{"quant.weight.bits", "2"}, {"quant.activation.bits", "8"}, {"quant.weight.group_size", "64"}}, {}, {})});
  EXPECT_THAT(table.columns,
              ElementsAre("quant.weight.bits", "quant.activation.bits", "group_size", "bits/weight", "seconds"));
}

TEST(Table, RunsThatMeasureDifferentThingsShareATableWithGaps) {
  const Table table = make_table({finished({{"a", "1"}}, {measurement("x", 8)}, {measurement("x", 10)}),
                                  finished({{"b", "2"}}, {measurement("x", 8), measurement("y", 4)},
                                           {measurement("x", 12), measurement("y", 5)})});
  EXPECT_THAT(table.columns, ElementsAre("a", "b", "bits/weight", "ppl x (gptq 64)", "±", "change", "ppl y (gptq 64)",
                                         "±", "change", "seconds"));
  EXPECT_THAT(table.rows.back(),
              ElementsAre("", "2", "2.2812", "12.0000", "0.2500", "+50.00 %", "5.0000", "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows.at(1), ElementsAre("1", "", "2.2812", "10.0000", "0.2500", "+25.00 %", "–", "–", "–", "2.2"));
  EXPECT_EQ(table.csv().substr(0, 4), "a,b,");
}

TEST(Table, EveryFullPrecisionModelOfASweepHasItsRow) {
  const Table table = make_table({finished({{"model.path", "m"}}, {measurement("a", 8)}, {measurement("a", 10)}),
                                  finished({{"model.path", "n"}}, {measurement("a", 4)}, {measurement("a", 5)})});
  ASSERT_EQ(table.rows.size(), 4u);
  EXPECT_THAT(table.rows[0], ElementsAre("m full precision", "–", "8.0000", "0.2500", "+0.00 %", "–"));
  EXPECT_THAT(table.rows[1], ElementsAre("m", "2.2812", "10.0000", "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows[2], ElementsAre("n full precision", "–", "4.0000", "0.2500", "+0.00 %", "–"));
}

TEST(Table, InTextColumnsAreAligned) {
  const Table table{.columns = {"a", "±"}, .rows = {{"long name", "1.5"}, {"–", "10.25"}}};
  EXPECT_EQ(table.text(),
            "a              ±\n"
            "long name    1.5\n"
            "–          10.25\n");
  EXPECT_EQ(table.markdown(), "| a | ± |\n| --- | --- |\n| long name | 1.5 |\n| – | 10.25 |\n");
}

TEST(Label, JoinsWhatWasSwept) {
  EXPECT_EQ(label({{"quant.weight.bits", "2"}, {"quant.weight.group_size", "-1"}}),
            "quant.weight.bits=2 quant.weight.group_size=-1");
  EXPECT_EQ(label({}), "");
}

}  // namespace
}  // namespace experiments
