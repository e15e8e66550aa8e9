// Trained models of the test data: the greedy text of stories260K as its authors print it, and the loss of wiki-qwen3
// on the first window of WikiText-2 as transformers computes it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <numeric>

#include "core/io/files.h"
#include "core/text/load_tokenizer.h"
#include "tests/models/support.h"

namespace {

constexpr double kFirstWindowNll = 3.63625284889294;  // nats per token; transformers 4.57.6, float32, 512 tokens

class RealModels : public testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("REFRAIN_DATA");
    if (data == nullptr || *data == '\0')
      GTEST_SKIP() << "REFRAIN_DATA is not set: it names the folder of the test data";
    data_ = data;
  }
  std::string data_;
  at::NoGradGuard no_gradient_;
};

// The text between the command line that samples at temperature 0 and the end of its code block.
std::string printed_story(const std::string& page) {
  const std::string command = "-t 0.0\n";
  const size_t start = page.find(command) + command.size();
  return page.substr(start, page.find("\n```", start) - start);
}

// Appends the most probable token, `count` times or until `end` would be appended.
std::vector<int32_t> continue_greedily(core::Model& model, std::vector<int32_t> ids, int64_t count, int32_t end) {
  core::KvCache cache(static_cast<int64_t>(model.plan().size()), static_cast<int64_t>(ids.size()) + count);
  at::Tensor next = at::tensor(std::vector<int64_t>(ids.begin(), ids.end())).unsqueeze(0);
  for (int64_t i = 0; i < count; ++i) {
    next = model.forward(next, &cache).select(1, -1).argmax(-1, /*keepdim=*/true);  // [1, V] -> [1, 1]
    const auto id = static_cast<int32_t>(next.item<int64_t>());
    if (id == end) break;
    ids.push_back(id);
  }
  return ids;
}

TEST_F(RealModels, Stories260KTellsItsPrintedStory) {
  const std::string directory = data_ + "/models/stories260K";
  const std::shared_ptr<core::Model> model = load_model(directory + "/hf_llama");
  const auto tokenizer = core::load_tokenizer(directory + "/hf_llama");
  const std::vector<int32_t> ids = continue_greedily(*model, {1}, 256, 1);
  const std::vector<int32_t> story(ids.begin() + 1, ids.end());
  EXPECT_EQ(tokenizer->decode(story), printed_story(core::read_file(directory + "/stories260K.md")));
}

TEST_F(RealModels, WikiQwen3HasTheLossOfTransformers) {
  const std::string directory = data_ + "/models/wiki-qwen3";
  const std::shared_ptr<core::Model> model = load_model(directory);
  const auto tokenizer = core::load_tokenizer(directory);
  const std::string text = core::read_file(data_ + "/corpora/wikitext-2-raw/wikitext2_test_hf_joined.txt");
  const std::vector<int32_t> tokens = tokenizer->encode(text.substr(0, text.rfind('\n', 8192)));
  const at::Tensor ids = at::tensor(std::vector<int64_t>(tokens.begin(), tokens.begin() + 512)).unsqueeze(0);
  const at::Tensor logits = model->forward(ids).squeeze(0).narrow(0, 0, 511);  // [511, V]
  const double nll = at::cross_entropy_loss(logits.to(at::kDouble), ids.squeeze(0).narrow(0, 1, 511)).item<double>();
  EXPECT_NEAR(nll, kFirstWindowNll, 1e-5 * kFirstWindowNll);
}

}  // namespace
