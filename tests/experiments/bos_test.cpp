// BOS in every position: a sentencepiece tokenizer before a tiny llama model, ids and scored positions by both
// protocols.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <cmath>

#include "core/io/files.h"
#include "core/text/load_tokenizer.h"
#include "models/registry.h"
#include "tests/experiments/support.h"
#include "tests/support/toy_model.h"

namespace experiments {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kBos = 1;  // <s>
constexpr int64_t kVocabulary = 400;
const std::string kTokenizer = std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/text/sentencepiece/tokenizer.model";
const char* const kText = "Once upon a time, there was a little dog.";

class Bos : public ::testing::Test {
 protected:
  void SetUp() override {
    model_ = lab_.file("llama");
    std::filesystem::create_directories(model_);
    std::filesystem::copy(kTokenizer, model_);
    core::write_atomically(model_ + "/config.json", R"({"model_type": "llama", "hidden_act": "silu", "hidden_size": 16,
      "intermediate_size": 32, "max_position_embeddings": 64, "num_attention_heads": 2, "num_hidden_layers": 1,
      "num_key_value_heads": 1, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
      "vocab_size": 400, "bos_token_id": 1})");
    at::manual_seed(4);
    std::vector<std::pair<std::string, at::Tensor>> tensors;
    const auto add = [&](const std::string& name, at::IntArrayRef shape) {
      tensors.emplace_back(name + ".weight", at::randn(shape) / 4);
    };
    add("model.embed_tokens", {kVocabulary, 16});
    add("model.norm", {16});
    add("lm_head", {kVocabulary, 16});
    const std::string layer = "model.layers.0.";
    for (const char* norm : {"input_layernorm", "post_attention_layernorm"}) add(layer + norm, {16});
    for (const char* wide : {"self_attn.q_proj", "self_attn.o_proj"}) add(layer + wide, {16, 16});
    for (const char* narrow : {"self_attn.k_proj", "self_attn.v_proj"}) add(layer + narrow, {8, 16});
    for (const char* up : {"mlp.gate_proj", "mlp.up_proj"}) add(layer + up, {32, 16});
    add(layer + "mlp.down_proj", {16, 32});
    toy::write(model_, tensors);
    lab_.put("text.txt", kText);
    plain_ = core::load_tokenizer(model_)->encode(kText);
    ASSERT_GE(plain_.size(), 10u);
    ASSERT_NE(plain_[0], kBos);
  }

  void adds_bos(bool yes) const {
    core::write_atomically(model_ + "/tokenizer_config.json",
                           std::string(R"({"bos_token": "<s>", "add_bos_token": )") + (yes ? "true" : "false") + "}");
  }

  // Windows of 5 tokens by a protocol; checks that every scored position, and no other, is in the loss.
  core::Windows windows(const std::string& protocol, const std::string& bos) const {
    const Spec spec = lab_.points({"model.path=" + model_, "measure.perplexity[0].protocol=" + protocol,
                                   "measure.perplexity[0].bos=" + bos, "measure.perplexity[0].seq_len=5",
                                   "measure.perplexity[0].windows=0"})
                          .front()
                          .spec;
    Resources resources("");
    const ModelFiles& files = resources.model(model_);
    const auto model = models::build(files.config);
    const core::Windows made = windows_of(first_perplexity(spec), resources, files, model->shape());
    model->load_embedding_and_head(weights_of(spec, files));
    core::ResidentSource source(weights_of(spec, files));
    const Scores scores = score(*model, source, made);
    EXPECT_EQ(made.protocol, protocol);
    for (int64_t n = 0; n < made.count; ++n) {
      const auto window = made.window(n);
      const std::vector<int64_t> ids(window.begin(), window.end());
      const at::Tensor logits = model->forward(at::tensor(ids).unsqueeze(0))[0].to(at::kDouble);  // [T, V]
      const at::Tensor log_p = logits.log_softmax(-1);
      double nll = 0;
      for (int64_t t = protocol == "gptq" ? 0 : 2; t < 4; ++t) nll -= log_p[t][ids[t + 1]].item<double>();
      EXPECT_NEAR(scores.window_nll[n], nll, 1e-4) << protocol << " " << bos << " window " << n;
    }
    return made;
  }

  Lab lab_;
  std::string model_;
  Ids plain_;  // the text's ids without BOS
};

TEST_F(Bos, NoneIsTheTextAsItIs) {
  adds_bos(true);
  for (const char* protocol : {"gptq", "llama.cpp"}) {
    const core::Windows made = windows(protocol, "none");
    EXPECT_EQ(made.bos, "none");
    EXPECT_EQ(made.ids, Ids(plain_.begin(), plain_.begin() + 5 * made.count));
    EXPECT_EQ(made.scored(), made.count * (std::string(protocol) == "gptq" ? 4 : 2));
  }
}

TEST_F(Bos, OnceStandsBeforeTheText) {
  adds_bos(false);
  for (const char* protocol : {"gptq", "llama.cpp"}) {
    const core::Windows made = windows(protocol, "once");
    Ids expected{kBos};
    expected.insert(expected.end(), plain_.begin(), plain_.begin() + 5 * made.count - 1);
    EXPECT_EQ(made.ids, expected) << protocol;
  }
}

TEST_F(Bos, WindowOverwritesTheFirstTokenOfEach) {
  adds_bos(false);
  const core::Windows made = windows("gptq", "window");
  Ids expected(plain_.begin(), plain_.begin() + 5 * made.count);
  for (int64_t n = 0; n < made.count; ++n) expected[5 * n] = kBos;
  EXPECT_EQ(made.ids, expected);
  EXPECT_EQ(made.scored(), 4 * made.count) << "the overwritten token is a target nowhere";
}

TEST_F(Bos, LlamaCppTokenizesWithBosAndThenOverwrites) {
  adds_bos(true);
  const core::Windows made = windows("llama.cpp", "auto");
  EXPECT_EQ(made.bos, "window");
  Ids expected{kBos};
  expected.insert(expected.end(), plain_.begin(), plain_.begin() + 5 * made.count - 1);
  for (int64_t n = 0; n < made.count; ++n) expected[5 * n] = kBos;
  EXPECT_EQ(made.ids, expected);
  EXPECT_EQ(expected[1], plain_[0]) << "the first window loses no token";
  EXPECT_EQ(made.first, 2);
  EXPECT_EQ(made.scored(), 2 * made.count);
}

TEST_F(Bos, AutoFollowsAddBosToken) {
  EXPECT_EQ(windows("gptq", "auto").bos, "none") << "no tokenizer_config.json";
  adds_bos(false);
  EXPECT_EQ(windows("gptq", "auto").ids, windows("gptq", "none").ids);
  EXPECT_EQ(windows("llama.cpp", "auto").ids, windows("llama.cpp", "none").ids);
  adds_bos(true);
  EXPECT_EQ(windows("gptq", "auto").ids, windows("gptq", "once").ids);
  EXPECT_EQ(windows("llama.cpp", "auto").ids, windows("llama.cpp", "window").ids);
}

}  // namespace
}  // namespace experiments
