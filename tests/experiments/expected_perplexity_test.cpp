// The published check: perplexities that transformers (of the mixture of experts a plain reference) gives in float32
// on the same tokens: for the embedded models in tests/golden/experiments, for those of the test data beside them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "experiments/inputs/resources.h"
#include "models/registry.h"

namespace {

using experiments::Resources;
using experiments::Spec;

constexpr double kRelative = 1e-4;  // of transformers' number; ours differs by the order of float32 sums

const char* data_root() { return std::getenv("REFRAIN_DATA"); }
std::string models_of(const std::string& data) { return data + "/models"; }

// The entries of more than `least` and at most `most` windows.
std::vector<nlohmann::json> expected(const std::string& folder, int64_t least, int64_t most) {
  std::vector<nlohmann::json> entries;
  for (const auto& entry : nlohmann::json::parse(core::read_file(folder + "/expected_perplexity.json"))) {
    const int64_t windows = entry["windows"];
    if (windows > least && windows <= most) entries.push_back(entry);
  }
  return entries;
}

void expect_same_perplexity(const nlohmann::json& entry, int64_t limit) {
  SCOPED_TRACE(entry.dump());
  Spec spec;
  spec.device = "cpu";
  Resources resources("");
  const experiments::ModelFiles& files = resources.model(entry["model"]);
  const auto model = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  model->load_embedding_and_head(weights);
  core::ResidentSource source(weights);
  experiments::PerplexityConfig config;
  config.corpus = entry["text"];
  config.protocol = entry["protocol"];
  config.bos = entry["bos"];
  config.seq_len = entry["seq_len"];
  config.windows = limit;
  const core::Windows windows = config.windows_of(*resources.texts(files, model->shape()));
  experiments::Perplexity measured = unmeasured(config, windows);
  measured.scores = experiments::score(*model, source, windows, {.batch_tokens = 4096});
  EXPECT_EQ(measured.windows, entry["windows"]);
  EXPECT_EQ(measured.tokens, entry["tokens"]);
  const double want = entry["ppl"];
  EXPECT_NEAR(measured.ppl(), want, kRelative * want);
}

TEST(ExpectedPerplexity, OfTheEmbeddedModelsIsThatOfTransformers) {
  const auto entries = expected(std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/experiments", 0, 100);
  ASSERT_FALSE(entries.empty());
  for (const auto& entry : entries) expect_same_perplexity(entry, entry["windows"]);
}

TEST(LongExpectedPerplexity, OnAHundredWindowsIsThatOfTransformers) {
  if (data_root() == nullptr) GTEST_SKIP() << "REFRAIN_DATA is not set: it names the directory of the test data";
  for (const auto& entry : expected(models_of(data_root()), 0, 100)) expect_same_perplexity(entry, 100);
}

TEST(LongExpectedPerplexity, OnTheWholeTextIsThatOfTransformers) {
  if (data_root() == nullptr) GTEST_SKIP() << "REFRAIN_DATA is not set: it names the directory of the test data";
  for (const auto& entry : expected(models_of(data_root()), 100, 1 << 20)) expect_same_perplexity(entry, 0);
}

}  // namespace
