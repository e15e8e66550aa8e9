// Tokens in front of every text in whole runs.
#include "experiments/inputs/prefix.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

class PrefixedRuns : public testing::Test {
 protected:
  Strings with(const Strings& more) const {
    Strings all{"runtime.prefix.tokens=[5, 17]", "calibration.samples=8", "calibration.seq_len=64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  const Lab lab_{kTinyModel};
};

// The mean loss of the windows behind the two tokens, by hand.
TEST_F(PrefixedRuns, MeasureFullPrecisionBehindTheTokens) {
  const Json row = lab_.row(with({"quant.method=none"}));
  const Spec spec = lab_.points(with({"quant.method=none"})).front().spec;
  const double mean = loss_by_hand(spec, [](core::Model& model, const std::vector<int64_t>& ids) {
    std::vector<int64_t> all{5, 17};
    all.insert(all.end(), ids.begin(), ids.end());
    return model.forward(at::tensor(all, at::kLong).unsqueeze(0))[0].slice(0, 2);
  });
  EXPECT_NEAR(row["baseline"]["perplexity"][0]["nll"].get<double>(), mean, 1e-4);
  EXPECT_EQ(row["prefix"]["tokens"], Json({5, 17}));
  const Json without = lab_.row({"quant.method=none"});
  EXPECT_EQ(row["prefix"]["baseline_without"]["perplexity"][0]["nll"], without["baseline"]["perplexity"][0]["nll"]);
  EXPECT_TRUE(without["prefix"].is_null());
}

TEST_F(PrefixedRuns, AreWrittenReadBackAndStreamedWithTheSameNumbers) {
  const Strings quantized{"quant={method: gptq, weight: {bits: 3, group_size: 64}}", "model.residency=resident"};
  const Json row = lab_.row(with(quantized));
  EXPECT_NE(Lab::nll_of(row), lab_.nll({"calibration.samples=8", "calibration.seq_len=64", quantized[0]}));
  const std::string checkpoint = lab_.directory(row) + "/checkpoint";
  EXPECT_EQ(lab_.nll({"model.path=" + checkpoint, "quant.method=none"}), Lab::nll_of(row));
  EXPECT_EQ(lab_.nll(with({quantized[0], "model.residency=stream"})), Lab::nll_of(row));
  EXPECT_GT(row["bits"]["with_parameters"].get<double>(),
            lab_.row({quantized[0], "calibration.samples=8", "calibration.seq_len=64"})["bits"]["with_parameters"]
                .get<double>());
}

TEST_F(PrefixedRuns, AreTrainedBehindIt) {
  const Strings all = with({"quant={method: rtn, weight: {bits: 2, group_size: 64}}", "qat={steps: 3, batch: 2}"});
  const Json row = lab_.row(all);
  EXPECT_LT(Lab::nll_of(row), lab_.nll(with({"quant={method: rtn, weight: {bits: 2, group_size: 64}}"})));
  EXPECT_EQ(lab_.nll({"model.path=" + lab_.directory(row) + "/checkpoint", "quant.method=none"}), Lab::nll_of(row));
}

// Blocks that share codes run once each, behind keys and values of their own.
TEST_F(PrefixedRuns, GoWithBlocksThatShareCodes) {
  const Strings adjacent{"quant={method: rtn, weight: {bits: 2, group_size: 64}}", "replication.strategy=adjacent"};
  const Json row = lab_.row(with(adjacent));
  EXPECT_NE(Lab::nll_of(row), lab_.nll(adjacent));
  EXPECT_EQ(lab_.nll({"model.path=" + lab_.directory(row) + "/checkpoint", "quant.method=none"}), Lab::nll_of(row));
}

// In one process, where texts are kept: the first point leaves more room than the second.
TEST_F(PrefixedRuns, LeaveLessRoomForTexts) {
  const int64_t context = models::build(open_model_files(kTinyModel).config)->shape().context;
  const std::string whole = fmt::format("measure.perplexity[0].seq_len={}", context);
  Resources resources("");
  const auto resolved = [&](const Strings& more) {
    Strings all{"quant.method=none", "measure.perplexity[0].corpus=tiny/test", whole};
    all.insert(all.end(), more.begin(), more.end());
    return core::message_of([&] { resolve(lab_.points(all).front(), resources); });
  };
  EXPECT_EQ(resolved({}), "no error");
  EXPECT_THAT(resolved({"runtime.prefix.tokens=[5, 17]"}), ::testing::HasSubstr("longer than the context of"));
  const Json row = lab_.row(with({"quant={method: rtn, weight: {bits: 8}}"}));
  EXPECT_THAT(resolved({"model.path=" + lab_.directory(row) + "/checkpoint"}),
              ::testing::HasSubstr("longer than the context of"));
}

TEST(LargeTokens, AreThoseFarAboveTheMedianBehindTheFirst) {
  at::Tensor hidden = at::ones({2, 6, 4});
  hidden[0][0] *= 1000;  // the first does not count
  hidden[0][2] *= 65;
  hidden[1][5] *= -500;
  hidden[1][3] *= 63;
  const at::Tensor ids = at::arange(12).reshape({2, 6});
  EXPECT_EQ(large_tokens(hidden, ids), (std::map<int64_t, int64_t>{{2, 1}, {11, 1}}));
}

TEST_F(PrefixedRuns, FindTokensByThemselves) {
  const Json row = lab_.row(with({"runtime.prefix.tokens=auto", "quant.method=none"}));
  EXPECT_FALSE(row["prefix"]["tokens"].empty());
}

TEST_F(PrefixedRuns, MistakesAreToldBeforeAnythingIsComputed) {
  const auto mistake = [&](Strings overrides) { return core::message_of([&] { lab_.run(overrides); }); };
  EXPECT_THAT(mistake({"runtime.prefix.tokens=[999999]"}),
              ::testing::HasSubstr("runtime.prefix.tokens: the model has no token 999999"));
  EXPECT_THAT(mistake({"runtime.prefix.tokens=[]"}), ::testing::HasSubstr("must be auto or a list of token ids"));
  EXPECT_THAT(mistake({"runtime.prefix.tokens=some"}), ::testing::HasSubstr("must be auto or a list of token ids"));
  EXPECT_THAT(mistake({"runtime.prefix.tokens=[-1]"}), ::testing::HasSubstr("must be auto or a list of token ids"));
  EXPECT_THAT(mistake({"runtime.prefix.tokens=[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]"}),
              ::testing::HasSubstr("17 tokens are more than 16"));
  EXPECT_THAT(mistake(with({"replication.strategy=depth"})), ::testing::HasSubstr("depth runs blocks several times"));
  const Json row = lab_.row({"quant={method: rtn, weight: {bits: 8}}"});
  EXPECT_THAT(
      mistake({"model.path=" + lab_.directory(row) + "/checkpoint", "quant.method=none", "runtime.prefix.tokens=[1]"}),
      ::testing::HasSubstr("has the prefix that it was made with"));
  const int64_t context = models::build(open_model_files(kTinyModel).config)->shape().context;
  EXPECT_THAT(
      mistake(with({"calibration.seq_len=" + std::to_string(context), "quant.method=gptq", "calibration.samples=1"})),
      ::testing::HasSubstr("longer than the context of the model"));
}

}  // namespace
}  // namespace experiments
