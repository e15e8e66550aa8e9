// The published check: perplexities that transformers (of the mixture of experts a plain reference) gives in float32
// for the models of the test data, on the same tokens.
#include <gtest/gtest.h>

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "experiments/inputs.h"
#include "models/registry.h"

namespace {

using experiments::Inputs;
using experiments::Spec;

constexpr double kRelative = 1e-4;  // of transformers' number; ours differs by the order of float32 sums

const char* data_root() { return std::getenv("REFRAIN_DATA"); }

// The entries of at most `most` or more than `least` windows.
std::vector<nlohmann::json> expected(int64_t least, int64_t most) {
  std::vector<nlohmann::json> entries;
  for (const auto& entry :
       nlohmann::json::parse(core::read_file(std::string(data_root()) + "/models/expected_perplexity.json"))) {
    const int64_t windows = entry["windows"];
    if (windows > least && windows <= most) entries.push_back(entry);
  }
  return entries;
}

void expect_same_perplexity(const nlohmann::json& entry, int64_t limit) {
  SCOPED_TRACE(entry.dump());
  Spec spec;
  spec.device = "cpu";
  Inputs inputs("");
  const experiments::ModelFiles& files = inputs.model(entry["model"]);
  const auto model = models::build(files.config);
  const core::Weights weights = weights_of(spec, files);
  model->load_ends(weights);
  core::ResidentSource source(weights);
  experiments::PerplexityConfig config;
  config.corpus = entry["text"];
  config.protocol = entry["protocol"];
  config.bos = entry["bos"];
  config.seq_len = entry["seq_len"];
  config.windows = limit;
  const core::Windows& windows = inputs.windows(files, config, model->shape());
  experiments::Perplexity measured = unmeasured(config, windows);
  measured.scores = experiments::score(*model, source, windows, {.batch_tokens = 4096});
  EXPECT_EQ(measured.windows, entry["windows"]);
  EXPECT_EQ(measured.tokens, entry["tokens"]);
  const double want = entry["ppl"];
  EXPECT_NEAR(measured.ppl(), want, kRelative * want);
}

TEST(ExpectedPerplexity, OnAHundredWindowsIsThatOfTransformers) {
  if (data_root() == nullptr) GTEST_SKIP() << "REFRAIN_DATA is not set: it names the directory of the test data";
  for (const auto& entry : expected(0, 100)) expect_same_perplexity(entry, 100);
}

TEST(LongExpectedPerplexity, OnTheWholeTextIsThatOfTransformers) {
  if (data_root() == nullptr) GTEST_SKIP() << "REFRAIN_DATA is not set: it names the directory of the test data";
  for (const auto& entry : expected(100, 1 << 20)) expect_same_perplexity(entry, 0);
}

}  // namespace
