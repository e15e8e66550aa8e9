// A GGUF file as model.path: the numbers of the folder that it was made from, through every stage of a run.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "export/checkpoint.h"
#include "tests/experiments/support.h"
#include "tests/io/gguf_of_folder.h"
#include "tests/support/logged.h"

namespace experiments {
namespace {

const std::string kRtn = "quant={method: rtn, weight: {bits: 3, group_size: 64}}";

class GgufRuns : public testing::Test {
 protected:
  const Lab lab_;
  const std::string folder_ = shallow_model();
  const std::string file_ = lab_.put("tiny.gguf", core::qwen3_as_gguf(folder_).bytes());
};

TEST_F(GgufRuns, HaveTheNumbersOfTheFolder) {
  const Json of_folder = lab_.row({"model.path=" + folder_, kRtn}), of_file = lab_.row({"model.path=" + file_, kRtn});
  for (const char* model : {"baseline", "quantized"}) {
    EXPECT_EQ(of_file[model]["perplexity"][0]["nll"], of_folder[model]["perplexity"][0]["nll"]) << model;
    EXPECT_EQ(of_file[model]["perplexity"][0]["token_hash"], of_folder[model]["perplexity"][0]["token_hash"]) << model;
  }
  EXPECT_NE(of_file["id"], of_folder["id"]) << "the content of the files differs";
}

TEST_F(GgufRuns, LeaveACheckpointThatStandsAlone) {
  const Json row = lab_.row({"model.path=" + file_, kRtn});
  const std::string checkpoint = lab_.directory(row) + "/checkpoint";
  EXPECT_TRUE(exports::is_quantized_checkpoint(checkpoint));
  const double nll = Lab::nll_of(lab_.row({"model.path=" + checkpoint, "quant.method=none"}));
  EXPECT_EQ(nll, Lab::nll_of(row));
}

TEST_F(GgufRuns, AreStreamedWithTheSameNumbers) {
  const Json whole = lab_.row({"model.path=" + file_, kRtn, "model.residency=resident"});
  const Json parts = lab_.row({"model.path=" + file_, kRtn, "model.residency=stream"}, /*force=*/true);
  EXPECT_EQ(Lab::nll_of(parts), Lab::nll_of(whole));
}

// The codes of anybody's file, beside the model in full precision, are measured as if the file were the model.
TEST_F(GgufRuns, MeasureTheCodesOfAFileAsTheyAre) {
  const std::string coded = lab_.put("q8_0.gguf", core::qwen3_as_gguf(folder_, as_q8_0).bytes());
  const std::string stored = "quant={method: stored, stored: {file: " + coded + "}}";
  const Json itself = lab_.row({"model.path=" + coded, "quant.method=none"});
  const Json beside = lab_.row({"model.path=" + folder_, stored});
  EXPECT_EQ(Lab::nll_of(beside), Lab::nll_of(itself));
  EXPECT_NE(Lab::nll_of(beside), beside["baseline"]["perplexity"][0]["nll"]);
  EXPECT_NEAR(beside["bits"]["with_parameters"].get<double>(), 8.5, 1e-9);
  const std::string again = lab_.directory(beside) + "/checkpoint";
  EXPECT_EQ(Lab::nll_of(lab_.row({"model.path=" + again, "quant.method=none"})), Lab::nll_of(beside));
  core::GgufBytes renamed = core::qwen3_as_gguf(folder_, as_q8_0);
  renamed.key("general.name", std::string("other"));
  const std::string other = lab_.put("other.gguf", renamed.bytes());
  EXPECT_NE(lab_.id({"model.path=" + folder_, stored}),
            lab_.id({"model.path=" + folder_, "quant={method: stored, stored: {file: " + other + "}}"}));
}

// Full precision would be reported as a perfect quantization.
TEST_F(GgufRuns, OfAFileWithoutCodesAreRefused) {
  for (const std::string& file : {file_, folder_}) {
    EXPECT_THAT(core::message_of([&] {
                  lab_.run({"model.path=" + folder_, "quant={method: stored, stored: {file: " + file + "}}"});
                }),
                testing::HasSubstr("stored has codes of no linear of this model"));
  }
  EXPECT_THAT(core::message_of([&] {
                lab_.run({"model.path=" + folder_, "quant={method: stored, stored: {file: missing.gguf}}"});
              }),
              testing::HasSubstr("quant.stored.file: missing.gguf: no such model or directory."));
}

TEST_F(GgufRuns, OfStoredCodesSayWhatIsLeftInFullPrecision) {
  const std::string coded = lab_.put("q8_0.gguf", core::qwen3_as_gguf(folder_, as_q8_0).bytes());
  const Logged log;
  lab_.row({"model.path=" + folder_, "quant={method: stored, stored: {file: " + coded +
                                         "}, rules: [{match: \"*.v_proj\", weight: {bits: 16}}]}"});
  EXPECT_THAT(log.text(), testing::ContainsRegex("linears are in full precision and no part of bits/weight: "
                                                 "model.layers.0.self_attn.v_proj"));
}

// Beside other methods in one sweep, whose grids it does not read.
TEST_F(GgufRuns, OfStoredCodesStandInASweepOfMethods) {
  const std::string coded = lab_.put("q8_0.gguf", core::qwen3_as_gguf(folder_, as_q8_0).bytes());
  const Outcome outcome =
      lab_.run({"model.path=" + folder_, "quant={method: rtn, weight: {bits: 3, group_size: 64}}",
                "sweep={cases: [{quant.method: rtn}, {quant.method: stored, quant.stored.file: " + coded + "}]}"});
  ASSERT_EQ(outcome.rows.size(), 2);
  EXPECT_NE(Lab::nll_of(outcome.rows[0].json()), Lab::nll_of(outcome.rows[1].json()));
}

TEST_F(GgufRuns, OfACutFileEndWithOneLine) {
  const std::string path = lab_.put("cut.gguf", core::slurp(file_).substr(0, 64));
  EXPECT_THAT(
      core::message_of([&] { lab_.run({"model.path=" + path}); }),
      testing::StartsWith(path + ": the header announces 68 tensors, more than fit into the 64 bytes of the file."));
}

}  // namespace
}  // namespace experiments
