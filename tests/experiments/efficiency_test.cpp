// What a replica buys against more bits: the figures by hand, and those of whole runs.
#include "experiments/analysis/efficiency.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/io/csv.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

Strings joined(Strings given, const Strings& more) {
  given.insert(given.end(), more.begin(), more.end());
  return given;
}

const Strings kFew{"calibration.samples=4", "calibration.seq_len=64", "checkpoint=discard"};

TEST(Efficiency, IsTheExchangeRateAgainstMoreBits) {
  const auto rate = [](double extra, double error, double single) {
    return Efficiency{.linears = 1, .extra_bits = extra, .error = error, .single_error = single};
  };
  EXPECT_DOUBLE_EQ(*rate(1, 0.25, 1).gain_bits(), 1);  // a quarter of the error: 6 dB, a bit
  EXPECT_DOUBLE_EQ(*rate(0.5, 0.25, 1).eta(), 2);      // log2(4) / (2 · 0.5)
  EXPECT_DOUBLE_EQ(*rate(0.5, 2, 1).eta(), -1);
  EXPECT_FALSE(rate(0.0049, 0.25, 1).eta());
  EXPECT_FALSE(rate(-0.0049, 0.25, 1).eta());
  EXPECT_DOUBLE_EQ(*rate(0.0049, 0.25, 1).gain_bits(), 1);
  EXPECT_TRUE(rate(-0.005, 0.25, 1).eta());
  EXPECT_FALSE(rate(1, 0, 1).gain_bits());
}

TEST(Efficiency, OfARunFollowsFromTheOutputErrorsOfBoth) {
  const Lab lab;
  const std::string path = "model.layers.2.mlp.down_proj";  // 128 × 256
  const Strings given =
      joined(kFew, {"quant.method=gptq", "calibration.targets=weight", "replication.strategy=low_rank",
                    "replication.select={policy: list, list: [" + path + "]}", "replication.controls=[single]"});
  for (const bool rewritten : {false, true}) {  // transforms change what the reference is, too
    const Outcome outcome = lab.run(rewritten ? joined(given, {"transform=[{awq: {grid: 3}}]"}) : given);
    const auto error_of = [&](const Json& row) {
      const std::string file = lab.directory(row) + "/modules.csv";
      for (const auto& cells : core::parse_csv(core::slurp(file), file)) {
        if (cells[0] == path) return std::stod(cells[7]);
      }
      return 0.0;
    };
    const Json& bought = outcome.rows.at(1)["replication"];
    const double single = error_of(outcome.rows[0]), replica = error_of(outcome.rows[1]);
    const double extra = 16.0 * 4 * (128 + 256) / (128 * 256);
    EXPECT_EQ(bought["linears"], 1);
    EXPECT_DOUBLE_EQ(bought["extra_bits"], extra);
    EXPECT_NEAR(bought["single_output_error"], single, 1e-6 * single);
    EXPECT_NEAR(bought["output_error"], replica, 1e-6 * replica);
    EXPECT_NEAR(bought["eta"], std::log2(single / replica) / (2 * extra), 1e-5);
    EXPECT_NEAR(bought["gain_bits"], std::log2(single / replica) / 2, 1e-5);
    EXPECT_GT(bought["eta"].get<double>(), 0);
    EXPECT_TRUE(outcome.rows[0]["replication"].is_null());
  }
}

// The single replica need not have been run: then its errors are measured, and they are the same.
TEST(Efficiency, TheReferenceIsTheSameWhetherRunOrMeasured) {
  for (const char* method : {"gptq", "rtn"}) {
    const Strings given =
        joined(kFew, {std::string("quant.method=") + method, "replication.strategy=low_rank",
                      "calibration.targets=weight", "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 3}}]"});
    const Lab one, other;
    const std::string text = "measure.perplexity[0].corpus=" + one.file("text.txt");
    const Json alone = other.row(joined(given, {text})),
               beside = one.run(joined(given, {"replication.controls=[single]"})).rows.at(1);
    EXPECT_EQ(alone["replication"], beside["replication"]) << method;
    EXPECT_FALSE(alone["replication"]["eta"].is_null());
  }
}

// What is coded is then not W, and errors are relative to W.
TEST(Efficiency, IsNotToldOfCorrectedTargets) {
  const Lab lab(shallow_model());
  const Strings given = joined(kFew, {"quant.method=gptq", "quant.weight.bits=2", "replication.strategy=low_rank"});
  EXPECT_TRUE(lab.row(given)["replication"]["eta"].is_null());
  EXPECT_FALSE(lab.row(joined(given, {"calibration.targets=weight"}))["replication"]["eta"].is_null());
}

}  // namespace
}  // namespace experiments
