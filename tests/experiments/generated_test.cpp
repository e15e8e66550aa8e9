// The corpus that the model writes itself: against sampling from full passes, and in whole runs.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/sampling.h"
#include "experiments/inputs/generated_text.h"
#include "models/registry.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

TEST(GeneratedText, IsSampledFromTheModelWithNumbersOfItsSequenceAlone) {
  constexpr int64_t kSequences = 3, kLength = 12;
  const Lab lab(kTinyModel);
  const Spec spec = lab.points().front().spec;
  Resources resources("");
  const ModelFiles& files = resources.model(spec.model.path);
  const core::Tokenizer& tokenizer = *files.tokenizer;
  const auto model = models::build(files.config);
  core::load(*model, weights_of(spec, files));
  const std::vector<int32_t> found = generated_ids(*model, tokenizer, kSequences, kLength, 7, "calibration");
  ASSERT_EQ(found.size(), static_cast<size_t>(kSequences * kLength));
  const at::NoGradGuard no_gradient;
  const int64_t known = std::min(tokenizer.vocabulary_size(), model->shape().vocabulary);
  for (int64_t n = 0; n < kSequences; ++n) {
    core::Random random(7, "calibration", "generated text", n);
    std::vector<int64_t> ids;
    bool begins = true;
    for (int64_t t = 0; t < kLength; ++t) {
      if (begins) {
        begins = false;
        ids.push_back(tokenizer.bos_id() ? *tokenizer.bos_id() : random.below(known));
      } else {
        const at::Tensor logits =
            model->forward(at::tensor(ids, at::kLong).unsqueeze(0))[0][t - 1].narrow(0, 0, known).contiguous();
        ids.push_back(
            core::sample({logits.const_data_ptr<float>(), static_cast<size_t>(known)}, {.temperature = 1}, random));
        begins = tokenizer.ends_text(ids.back());
      }
      EXPECT_EQ(found[n * kLength + t], ids.back()) << "sequence " << n << ", token " << t;
    }
  }
  EXPECT_NE(generated_ids(*model, tokenizer, kSequences, kLength, 8, "calibration"), found);
  EXPECT_NE(generated_ids(*model, tokenizer, kSequences, kLength, 7, "training"), found);
}

class GeneratedRuns : public testing::Test {
 protected:
  Strings with(const Strings& more) const {
    Strings all{"quant={method: gptq, weight: {bits: 2, group_size: 64, range: mse}}", "calibration.samples=8",
                "calibration.seq_len=64"};
    all.insert(all.end(), more.begin(), more.end());
    return all;
  }
  const Lab lab_{kTinyModel};
};

TEST_F(GeneratedRuns, CalibrateOnItWithTheSameNumbersAnywhere) {
  const Json row = lab_.row(with({"calibration.corpus=generated"}));
  EXPECT_NE(Lab::nll_of(row), lab_.nll(with({})));
  const Lab other(kTinyModel);
  const Json again = other.row(with({"calibration.corpus=generated"}));
  EXPECT_EQ(again["hashes"]["codes"], row["hashes"]["codes"]);
  EXPECT_EQ(again["hashes"]["calibration_tokens"], row["hashes"]["calibration_tokens"]);
  EXPECT_NE(lab_.row(with({"calibration.corpus=generated", "seed=7"}))["hashes"]["codes"], row["hashes"]["codes"]);
}

TEST_F(GeneratedRuns, TrainOnIt) {
  const Strings trained = with({"qat={steps: 4, batch: 2, corpus: generated}"});
  const Json row = lab_.row(trained);
  EXPECT_LT(Lab::nll_of(row), lab_.nll(with({})));
  EXPECT_NE(Lab::nll_of(row), lab_.nll(with({"qat={steps: 4, batch: 2}"})));
}

TEST_F(GeneratedRuns, AreRefusedWhereTheModelIsStreamed) {
  for (const char* corpus : {"calibration.corpus=generated", "qat={steps: 2, corpus: generated}"}) {
    EXPECT_THAT(core::message_of([&] {
                  lab_.run(with({corpus, "model.residency=stream"}));
                }),
                ::testing::HasSubstr("corpus: generated is written with all weights in memory"));
  }
}

}  // namespace
}  // namespace experiments
