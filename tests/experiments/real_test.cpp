// SmolLM2-135M-Instruct as tools/get_model fetches it (./run_tests --real): the loss of transformers.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/io/model_path.h"
#include "experiments/inputs/resources.h"
#include "experiments/measure/perplexity.h"
#include "experiments/measure/score.h"
#include "models/registry.h"

namespace experiments {
namespace {

// transformers 5.24 on the same file, float32: mean loss of the first four windows of 512 tokens of wikitext2/test, in
// nats per scored token.
constexpr double kLoss = 3.4327873493555745;

TEST(LongReal, SmolLm2HasTheLossOfTransformers) {
  const std::vector<std::string> models = core::list_models(), corpora = core::list_corpora();
  const auto has = [](const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  if (!has(models, "smollm2-135m")) GTEST_SKIP() << "smollm2-135m is not here. Fetch it: tools/get_model smollm2-135m";
  if (!has(corpora, "wikitext2/test")) GTEST_SKIP() << "REFRAIN_DATA does not hold wikitext2/test";
  Spec spec;
  spec.device = "cpu";
  spec.model.dtype = "float32";
  Resources resources("");
  const ModelFiles& files = resources.model("smollm2-135m");
  const auto model = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  model->load_embedding_and_head(weights);
  core::ResidentSource source(weights);
  PerplexityConfig config;
  config.corpus = "wikitext2/test";
  config.seq_len = 512;
  config.windows = 4;
  const core::Windows windows = config.windows_of(*resources.texts(files, model->shape()));
  Perplexity measured = unmeasured(config, windows);
  measured.scores = score(*model, source, windows, {.batch_tokens = 1024});
  EXPECT_NEAR(std::log(measured.ppl()), kLoss, 1e-4);
}

}  // namespace
}  // namespace experiments
