// The table of a sweep from the rows of results.json.
#include "experiments/results/table.h"

#include <gmock/gmock.h>

namespace experiments {
namespace {

using ::testing::ElementsAre;

Json measurement(const std::string& corpus, double ppl) {
  return {{"corpus", corpus}, {"protocol", "gptq"}, {"seq_len", 64}, {"ppl", ppl}, {"ppl_stderr", 0.25}};
}

Json finished(const Json& swept, std::vector<Json> full, std::vector<Json> quantized) {
  return {{"swept", swept},
          {"baseline", full.empty() ? Json(nullptr) : Json{{"perplexity", full}}},
          {"quantized", {{"perplexity", quantized}}},
          {"bits", {{"with_parameters", 2.28125}, {"at_4096", 2.25}}},
          {"stages", {{{"seconds", 1.5}}, {{"seconds", 0.75}}}}};
}

TEST(Table, HasTheFullPrecisionModelFirstAndThenEveryRun) {
  const Table table = make_table({finished({{"quant.weight.bits", "2"}}, {measurement("a", 8)}, {measurement("a", 10)}),
                                  Json{{"swept", {{"quant.weight.bits", "3"}}}, {"failed", "the disk is full"}}});
  EXPECT_THAT(table.columns,
              ElementsAre("bits", "bits/weight", "at 4096²", "ppl a (gptq 64)", "±", "change", "seconds"));
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_THAT(table.rows[0], ElementsAre("full precision", "–", "–", "8.0000", "0.2500", "+0.00 %", "–"));
  EXPECT_THAT(table.rows[1], ElementsAre("2", "2.2812", "2.2500", "10.0000", "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows[2], ElementsAre("3", "failed: the disk is full", "–", "–", "–", "–", "–"));
}

TEST(Table, OfAModelWithoutFullPrecisionShowsNoChange) {
  const Table table = make_table({finished(Json::object(), {}, {measurement("a", 10)})});
  ASSERT_EQ(table.rows.size(), 1u);
  EXPECT_THAT(table.rows[0], ElementsAre("quantized", "2.2812", "2.2500", "10.0000", "0.2500", "–", "2.2"));
}

TEST(Table, ShowsWhatIsWrittenAndHowFast) {
  Json run = finished({{"quant.weight.bits", "2"}}, {measurement("a", 8)}, {measurement("a", 10)});
  run["baseline"]["generation"] = {{"repeated_4grams", 0.05}};
  run["quantized"]["generation"] = {{"same_tokens", 12.25}, {"agreement", 0.5}, {"repeated_4grams", 0.4}};
  const Json at{{"context", 64},
                {"ttft_ms", 1.234},
                {"ttft_ms_sd", 0.1},
                {"prompt_tokens_per_s", 5000.0},
                {"prompt_tokens_per_s_sd", 40.0},
                {"tokens_per_s", 123.45},
                {"tokens_per_s_sd", 2.0},
                {"bandwidth_fraction", 0.25}};
  run["quantized"]["latency"] = {{"contexts", {at}},
                                 {"weight_bytes_per_token", 2500000},
                                 {"peak_rss_bytes", 400000000},
                                 {"file_bytes", 3000000},
                                 {"compression", 7.125}};
  const Json other = finished({{"quant.weight.bits", "3"}}, {measurement("a", 8)}, {measurement("a", 9)});
  const Table table = make_table({run, other});
  EXPECT_THAT(table.columns, ElementsAre("bits", "bits/weight", "at 4096²", "same tokens", "agree", "repeated",
                                         "tokens/s", "ppl a (gptq 64)", "±", "change", "seconds"));
  EXPECT_THAT(table.rows.at(0),
              ElementsAre("full precision", "–", "–", "–", "–", "5.0 %", "–", "8.0000", "0.2500", "+0.00 %", "–"));
  EXPECT_THAT(table.rows.at(1), ElementsAre("2", "2.2812", "2.2500", "12.2", "50.0 %", "40.0 %", "123.5", "10.0000",
                                            "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows.at(3),
              ElementsAre("3", "2.2812", "2.2500", "–", "–", "–", "–", "9.0000", "0.2500", "+12.50 %", "2.2"));
  const Table speed = detail_tables({run, other}).at(0).second;
  EXPECT_THAT(speed.columns, ElementsAre("bits", "bits/weight", "context", "TTFT ms", "prompt tokens/s", "tokens/s",
                                         "MB/token", "of bandwidth", "peak MB", "file MB", "compression"));
  ASSERT_EQ(speed.rows.size(), 1u);
  EXPECT_THAT(speed.rows[0], ElementsAre("2", "2.2812", "64", "1.23 ± 0.10", "5000 ± 40", "123.5 ± 2.0", "2.5",
                                         "25.0 %", "400.0", "3.0", "7.12"));
}

TEST(Table, KeysThatEndAlikeKeepTheirFullNames) {
  const Table table = make_table({finished(
      {{"quant.weight.bits", "2"}, {"quant.activation.bits", "8"}, {"quant.weight.group_size", "64"}}, {}, {})});
  EXPECT_THAT(table.columns, ElementsAre("quant.weight.bits", "quant.activation.bits", "group_size", "bits/weight",
                                         "at 4096²", "seconds"));
}

TEST(Table, RunsThatMeasureDifferentThingsShareATableWithGaps) {
  const Table table = make_table({finished({{"a", "1"}}, {measurement("x", 8)}, {measurement("x", 10)}),
                                  finished({{"b", "2"}}, {measurement("x", 8), measurement("y", 4)},
                                           {measurement("x", 12), measurement("y", 5)})});
  EXPECT_THAT(table.columns, ElementsAre("a", "b", "bits/weight", "at 4096²", "ppl x (gptq 64)", "±", "change",
                                         "ppl y (gptq 64)", "±", "change", "seconds"));
  EXPECT_THAT(table.rows.back(), ElementsAre("", "2", "2.2812", "2.2500", "12.0000", "0.2500", "+50.00 %", "5.0000",
                                             "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows.at(1),
              ElementsAre("1", "", "2.2812", "2.2500", "10.0000", "0.2500", "+25.00 %", "–", "–", "–", "2.2"));
  EXPECT_EQ(table.csv().substr(0, 4), "a,b,");
}

TEST(Table, EveryFullPrecisionModelOfASweepHasItsRow) {
  const Table table = make_table({finished({{"model.path", "m"}}, {measurement("a", 8)}, {measurement("a", 10)}),
                                  finished({{"model.path", "n"}}, {measurement("a", 4)}, {measurement("a", 5)})});
  ASSERT_EQ(table.rows.size(), 4u);
  EXPECT_THAT(table.rows[0], ElementsAre("m full precision", "–", "–", "8.0000", "0.2500", "+0.00 %", "–"));
  EXPECT_THAT(table.rows[1], ElementsAre("m", "2.2812", "2.2500", "10.0000", "0.2500", "+25.00 %", "2.2"));
  EXPECT_THAT(table.rows[2], ElementsAre("n full precision", "–", "–", "4.0000", "0.2500", "+0.00 %", "–"));
}

TEST(Table, APointWithSeveralSeedsEndsWithTheirMean) {
  const auto run = [](const char* bits, const char* seed, double ppl) {
    return finished({{"quant.weight.bits", bits}, {"seed", seed}}, {measurement("a", 8)}, {measurement("a", ppl)});
  };
  const Json failed{{"swept", {{"quant.weight.bits", "2"}, {"seed", "3"}}}, {"failed", "no"}};
  const Table table =
      make_table({run("2", "1", 10), run("2", "2", 12), failed, run("3", "1", 9), run("3", "2", 9), run("4", "1", 8)});
  ASSERT_EQ(table.rows.size(), 9u);  // 1 full precision, 3 + mean, 2 + mean, 1
  EXPECT_THAT(table.rows[4],         // sd of 10 and 12: sqrt((1 + 1) / 1)
              ElementsAre("2", "mean ± sd of 2", "2.2812", "2.2500", "11.0000", "1.4142", "+37.50 %", "2.2"));
  EXPECT_THAT(table.rows[7],
              ElementsAre("3", "mean ± sd of 2", "2.2812", "2.2500", "9.0000", "0.0000", "+12.50 %", "2.2"));
  EXPECT_THAT(table.rows[8], ElementsAre("4", "1", "2.2812", "2.2500", "8.0000", "0.2500", "+0.00 %", "2.2"));
}

TEST(Table, TheMeanOfSeedsIsThatOfEveryNumberAndNoneWhereARunHasNone) {
  const auto run = [](const char* seed, double bits, const Json& eta, double gain) {
    Json row = finished({{"b", "2"}, {"seed", seed}}, {measurement("a", 8)}, {measurement("a", 10)});
    row["bits"] = {{"with_parameters", bits}, {"at_4096", 2}};
    row["replication"] = {{"strategy", "depth"}, {"eta", eta}, {"gain_bits", gain}};
    return row;
  };
  const auto mean = [&](const Json& eta) {
    const Table table = make_table({run("1", 2, 0.5, 0.1), run("2", 3, eta, 0.3)});
    EXPECT_THAT(table.columns, ElementsAre("b", "seed", "bits/weight", "at 4096²", "eta", "gain, bits",
                                           "ppl a (gptq 64)", "±", "change", "seconds"));
    return table.rows.at(3);
  };
  EXPECT_THAT(mean(0.7), ElementsAre("2", "mean ± sd of 2", "2.5000", "2.0000", "0.60", "0.200", "10.0000", "0.0000",
                                     "+25.00 %", "2.2"));
  EXPECT_EQ(mean(nullptr).at(4), "–") << "one seed has no eta";
}

TEST(Table, EqualPointsWithoutSeedsHaveNoMean) {
  const Json run = finished({{"quant.weight.bits", "2"}}, {}, {measurement("a", 10)});
  EXPECT_EQ(make_table({run, run}).rows.size(), 2u);
}

Json with_kl(Json measured, double kl, double top1) {
  measured["kl_mean"] = kl;
  measured["top1_agreement"] = top1;
  return measured;
}

TEST(Table, ShowsKlAndTop1WhereTheyWereMeasured) {
  const Table table =
      make_table({finished({{"bits", "2"}}, {measurement("a", 8)}, {with_kl(measurement("a", 10), 0.25, 0.8125)}),
                  finished({{"bits", "16"}}, {measurement("a", 8)}, {measurement("a", 8)})});
  EXPECT_THAT(table.columns, ElementsAre("bits", "bits/weight", "at 4096²", "ppl a (gptq 64)", "±", "change", "KL",
                                         "top-1", "seconds"));
  EXPECT_THAT(table.rows.at(0), ElementsAre("full precision", "–", "–", "8.0000", "0.2500", "+0.00 %", "–", "–", "–"));
  EXPECT_THAT(table.rows.at(1),
              ElementsAre("2", "2.2812", "2.2500", "10.0000", "0.2500", "+25.00 %", "0.2500", "81.25 %", "2.2"));
  EXPECT_THAT(table.rows.at(2), ElementsAre("16", "2.2812", "2.2500", "8.0000", "0.2500", "+0.00 %", "–", "–", "2.2"));
}

TEST(Table, MoreThanTwoMeasurementsStandBelowEachOther) {
  const std::vector<Json> full{measurement("x", 8), measurement("y", 4), measurement("z", 2)},
      quantized{with_kl(measurement("x", 12), 0.5, 0.5), measurement("y", 5), measurement("z", 3)};
  const Table table = make_table(
      {finished({{"bits", "2"}}, full, quantized), Json{{"swept", {{"bits", "1"}}}, {"failed", "the disk is full"}}});
  EXPECT_THAT(table.columns,
              ElementsAre("bits", "bits/weight", "at 4096²", "measured on", "ppl", "±", "change", "KL", "top-1"));
  ASSERT_EQ(table.rows.size(), 9u);
  EXPECT_THAT(table.rows[0],
              ElementsAre("full precision", "–", "–", "x (gptq 64)", "8.0000", "0.2500", "+0.00 %", "–", "–"));
  EXPECT_THAT(table.rows[1], ElementsAre("2", "2.2812", "2.2500", "x (gptq 64)", "12.0000", "0.2500", "+50.00 %",
                                         "0.5000", "50.00 %"));
  EXPECT_THAT(table.rows[2], ElementsAre("1", "failed: the disk is full", "–", "–", "–", "–", "–", "–", "–"));
  EXPECT_THAT(table.rows[7],
              ElementsAre("2", "2.2812", "2.2500", "z (gptq 64)", "3.0000", "0.2500", "+50.00 %", "–", "–"));
}

TEST(Table, ShowsWhatReplicationBoughtAndWhyAControlIsMissing) {
  Json plain = finished({{"control", "single"}}, {}, {measurement("a", 10)}), replica = plain, even = plain;
  plain["replication"] = nullptr;
  plain["bits"].erase("at_4096");  // a run from before there was one
  replica["replication"] = {{"strategy", "low_rank"}, {"eta", 0.754}, {"gain_bits", 0.1234}};
  even["replication"] = {{"strategy", "parity_sign"}, {"eta", nullptr}, {"gain_bits", 0.2}};
  const Json missing{{"swept", {{"control", "more_bits"}}}, {"failed", "no control: more_bits: it is `single`"}};
  const Table table = make_table({plain, replica, even, missing});
  EXPECT_THAT(table.columns, ElementsAre("control", "bits/weight", "at 4096²", "eta", "gain, bits", "ppl a (gptq 64)",
                                         "±", "change", "seconds"));
  EXPECT_THAT(table.rows.at(0), ElementsAre("single", "2.2812", "–", "–", "–", "10.0000", "0.2500", "–", "2.2"));
  EXPECT_THAT(table.rows.at(1),
              ElementsAre("single", "2.2812", "2.2500", "0.75", "0.123", "10.0000", "0.2500", "–", "2.2"));
  EXPECT_EQ(table.rows.at(2).at(3), "–");
  EXPECT_EQ(table.rows.at(2).at(4), "0.200");
  EXPECT_EQ(table.rows.at(3).at(1), "no control: more_bits: it is `single`");
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
