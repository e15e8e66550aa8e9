// A measure that is made here alone reaches everything that follows from the table of measures.
#include "experiments/measure/measure.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "experiments/results/compare.h"
#include "experiments/run/stages.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Mean length of the hidden states of a few tokens behind the last block, each token by itself.
struct StateLength : Measure {
  std::string corpus;
  int64_t tokens = 4;

  void keys(core::Keys& k) override {
    k.key("corpus", corpus, "text whose first tokens are looked at");
    k.key("tokens", tokens, "how many", {1, 64});
  }
  void check() const override { core::require(!corpus.empty(), "{}: corpus is missing.", where("")); }
  int version() const override { return 7; }

  Prepared prepare(Texts& texts) const override {
    std::vector<int32_t> ids = texts.tokens(core::find_corpus(corpus));
    ids.resize(tokens);
    return {core::token_hash(ids), [ids](const Subject& subject) { return found(ids, subject); }};
  }
  std::vector<Column> columns() const override {
    return {{.heading = "length", .path = "length", .digits = 3},
            {.heading = "± length", .path = "spread", .digits = 3, .deviation_of = "length"},
            {.heading = "drift", .path = "length", .digits = 1, .unit = Column::Unit::change}};
  }
  ItemFile items() const override {
    return {.name = "lengths.csv",
            .columns = {"token", "length"},
            .count = "tokens",
            .tokens = "tokens",
            .quantities = {{.column = "length", .name = "length"}}};
  }
  std::string label(const Json& /*values*/) const override { return "first tokens"; }

 private:
  static Found found(const std::vector<int32_t>& ids, const Subject& subject) {
    core::load_blocks(subject.model, subject.source);
    const at::NoGradGuard no_gradient;
    Found found;
    double sum = 0;
    for (size_t i = 0; i < ids.size(); ++i) {
      const at::Tensor id = at::full({1, 1}, ids[i], at::kLong);
      const double length = at::norm(subject.model.states(id)).item<double>();
      found.items.push_back({std::to_string(i), core::csv_cell(length)});
      sum += length;
    }
    found.values = {{"tokens", ids.size()}, {"length", sum / static_cast<double>(ids.size())}, {"spread", nullptr}};
    return found;
  }
};

const Strings kAsked{"measure.state_length={corpus: tiny/valid, tokens: 3}"};

class OneMoreMeasure : public ::testing::Test {
 protected:
  ExtraMeasure extra_{
      {.help = "how long hidden states are", .make = [] { return StateLength{}; }, .name = "state_length"}};
};

TEST_F(OneMoreMeasure, IsInTheHelpAndItsMistakesHaveTheirLine) {
  Spec spec;
  EXPECT_THAT(core::help(spec, "measure"), HasSubstr("how long hidden states are"));
  EXPECT_THAT(core::help(spec, "measure.state_length.tokens"), HasSubstr("how many"));
  const Lab lab;
  EXPECT_THAT(core::message_of([&] { lab.points({"measure.state_length={tokens: 3}"}); }),
              HasSubstr("measure.state_length: corpus is missing."));
  EXPECT_THAT(core::message_of([&] { lab.points({"measure.state_length={corpus: tiny/valid, tokens: 65}"}); }),
              HasSubstr("measure.state_length.tokens"));
}

TEST_F(OneMoreMeasure, IsInResultsTablesAndStages) {
  const Lab lab;
  const Json row = lab.row(kAsked);
  const Json &full = row["baseline"]["state_length"], &quantized = row["quantized"]["state_length"];
  EXPECT_GT(full["length"], 0.0);
  EXPECT_NE(quantized["length"], full["length"]);
  const auto lengths = core::parse_csv(core::slurp(lab.directory(row) + "/lengths.csv"), "lengths.csv");
  EXPECT_THAT(lengths[0], ElementsAre("model", "token", "length"));
  EXPECT_EQ(lengths.size(), 7u) << "three of full precision, three of the quantized model";

  const Table table = make_table({row});
  const auto place = std::find(table.columns.begin(), table.columns.end(), "length") - table.columns.begin();
  ASSERT_LT(place, static_cast<int64_t>(table.columns.size()));
  EXPECT_EQ(table.columns[place + 2], "drift");
  const double now = quantized["length"], before = full["length"];
  EXPECT_EQ(table.rows[0][place], fmt::format("{:.3f}", before));
  EXPECT_EQ(table.rows[1][place], fmt::format("{:.3f}", now));
  EXPECT_EQ(table.rows[1][place + 2], fmt::format("{:+.1f} %", 100 * (now / before - 1)));

  EXPECT_EQ(outdated(row), "");
  Json stale = row;
  for (Json& stage : stale["stages"]) {
    if (stage["name"] == "state_length") stage["version"] = 6;
  }
  EXPECT_EQ(outdated(stale), "state_length was version 6 and is 7 now");
}

TEST_F(OneMoreMeasure, IsPartOfTheIdAndOfTheBaselinesKey) {
  const Lab lab;
  EXPECT_NE(lab.id(kAsked), lab.id());
  EXPECT_NE(lab.id(kAsked), lab.id({"measure.state_length={corpus: tiny/valid, tokens: 4}"}));
  const Json first = lab.row(kAsked), again = lab.row({kAsked[0], "quant.weight.bits=3"});
  EXPECT_EQ(again["stages"][0]["cached"], true);
  EXPECT_EQ(again["baseline"], first["baseline"]);
}

TEST_F(OneMoreMeasure, HasAMeanOverSeedsAndIsCompared) {
  const Lab lab;
  const Outcome outcome = lab.run(
      {kAsked[0], "quant.weight.rounding=stochastic", "sweep.grid={quant.weight.bits: [2, 3]}", "seeds=[1, 2]"});
  ASSERT_EQ(outcome.rows.size(), 4u);
  const Table table = make_table(outcome.rows);
  const auto place = std::find(table.columns.begin(), table.columns.end(), "length") - table.columns.begin();
  const double a = outcome.rows[0]["quantized"]["state_length"]["length"],
               b = outcome.rows[1]["quantized"]["state_length"]["length"];
  ASSERT_NE(a, b);
  EXPECT_EQ(table.rows[3][place], fmt::format("{:.3f}", (a + b) / 2));
  EXPECT_EQ(table.rows[3][place + 1], fmt::format("{:.3f}", std::abs(a - b) / std::sqrt(2)));

  const auto comparisons = compare(lab.directory(outcome.rows[0].json()), lab.directory(outcome.rows[2].json()));
  const auto length = std::find_if(comparisons.begin(), comparisons.end(),
                                   [](const Comparison& c) { return c.quantity.name == "length"; });
  ASSERT_NE(length, comparisons.end());
  EXPECT_EQ(length->items, 3);
  EXPECT_EQ(length->by_seed.size(), 2u);
  EXPECT_NEAR(length->a, (a + b) / 2, 1e-9);
  EXPECT_THAT(comparison_text(comparisons), HasSubstr("first tokens"));
}

TEST(Measures, TheExtraOneIsGoneAgain) {
  Spec spec;
  EXPECT_THAT(core::help(spec, "measure"), ::testing::Not(HasSubstr("state_length")));
}

}  // namespace
}  // namespace experiments
