// Embedding and head of a model whose file and config.json do not say the same. What transformers 5.24 makes of them is
// the reference: a pair that is there once is tied in either direction, a pair that differs is not tied.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "models/registry.h"
#include "tests/io/support.h"
#include "tests/models/support.h"
#include "tests/support/logged.h"

namespace {

using nlohmann::json;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";

using Tensors = std::map<std::string, at::Tensor>;

// The tensors of a golden model, with the embedding under both names.
Tensors tensors_of(const std::string& golden) {
  const auto checkpoint = std::make_shared<core::Checkpoint>(core::Checkpoint::open(golden_directory(golden)));
  const core::Weights weights(checkpoint, at::kFloat, at::kCPU);
  Tensors all;
  for (const std::string& name : checkpoint->names())
    all[name] = weights.read(name, checkpoint->at(name).shape).tensor.clone();
  all[kHead] = all.at(kEmbedding).clone();
  return all;
}

// A directory with the config of a golden model and these tensors.
class Folder {
 public:
  Folder(const std::string& golden, const Tensors& tensors, bool tied) {
    json config = json::parse(golden_file(golden, "config.json"));
    config["tie_word_embeddings"] = tied;
    scratch_.put("config.json", config.dump());
    std::vector<core::TensorToWrite> out;
    for (const auto& [name, tensor] : tensors)
      out.push_back({name, core::DType::F32, tensor.sizes().vec(), tensor.const_data_ptr()});
    core::write_safetensors(file(), out);
  }
  const std::string& path() const { return scratch_.path(); }
  std::string file() const { return scratch_.file("model.safetensors"); }

 private:
  core::Scratch scratch_;
};

at::Tensor logits_of(core::Model& model) {
  at::NoGradGuard no_gradient;
  return model.forward(at::arange(10, at::kLong).reshape({2, 5}));
}

// One golden model of each family.
std::vector<std::string> one_per_family() {
  std::map<std::string, std::string> found;
  for (const std::string& golden : golden_names()) found.emplace(family_of(golden), golden);
  EXPECT_EQ(found.size(), models::families().size());
  std::vector<std::string> names;
  for (const auto& [family, golden] : found) names.push_back(golden);
  return names;
}

TEST(Tied, AHeadThatDiffersIsNotTiedAndSaidSo) {
  for (const std::string& golden : one_per_family()) {
    Tensors tensors = tensors_of(golden);
    tensors[kHead][3][1] += 0.5;
    const Folder tied(golden, tensors, true), untied(golden, tensors, false);
    const Logged log;
    const auto model = load_model(tied.path());
    EXPECT_EQ(log.text(),
              tied.file() +
                  ": config.json ties model.embed_tokens.weight and lm_head.weight, but they differ. They are not "
                  "tied, as in transformers. Set tie_word_embeddings to false.\n");
    const auto expected = load_model(untied.path());
    EXPECT_TRUE(at::equal(logits_of(*model), logits_of(*expected))) << golden;
    EXPECT_FALSE(model->shape().tied);
    EXPECT_EQ(core::bill(*model).weights, core::bill(*expected).weights);
    load_model(tied.path());
    const std::string lines = log.text();
    EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1) << "a second model of the process";
  }
}

TEST(Tied, AHeadThatIsEqualIsTied) {
  for (const std::string& golden : one_per_family()) {
    Tensors tensors = tensors_of(golden);
    const Folder both(golden, tensors, true);
    tensors.erase(kHead);
    const Folder one(golden, tensors, true);
    const Logged log;
    const auto model = load_model(both.path()), expected = load_model(one.path());
    EXPECT_EQ(log.text(), "");
    EXPECT_TRUE(core::shares_embedding(*model)) << golden;
    EXPECT_TRUE(at::equal(logits_of(*model), logits_of(*expected))) << golden;
    EXPECT_EQ(core::bill(*model).dense_bits, core::bill(*expected).dense_bits);
  }
}

TEST(Tied, APairUnderTheHeadsNameAloneIsTheEmbeddingToo) {
  for (const std::string& golden : one_per_family()) {
    Tensors tensors = tensors_of(golden);
    tensors.erase(kHead);
    const Folder under_embedding(golden, tensors, true);
    tensors[kHead] = tensors.at(kEmbedding);
    tensors.erase(kEmbedding);
    const Folder under_head(golden, tensors, true);
    const Logged log;
    const auto model = load_model(under_head.path()), expected = load_model(under_embedding.path());
    EXPECT_EQ(log.text(), "");
    EXPECT_TRUE(core::shares_embedding(*model)) << golden;
    EXPECT_TRUE(at::equal(logits_of(*model), logits_of(*expected))) << golden;
    EXPECT_EQ(core::named_state(*model).size(), core::named_state(*expected).size());
  }
}

std::string refusal(const Folder& folder) {
  return message_of([&] { load_model(folder.path()); });
}

TEST(Tied, AnUntiedModelNeedsBoth) {
  const std::string advice =
      ", and config.json does not tie them. Set tie_word_embeddings to true if they are the same, or add the tensor.";
  Tensors without_head = tensors_of("qwen2"), without_embedding = without_head;
  without_head.erase(kHead);
  without_embedding.erase(kEmbedding);
  const Folder one("qwen2", without_head, false), other("qwen2", without_embedding, false);
  EXPECT_EQ(refusal(one),
            one.file() + ": there is no tensor `lm_head.weight`, only `model.embed_tokens.weight`" + advice);
  EXPECT_EQ(refusal(other),
            other.file() + ": there is no tensor `model.embed_tokens.weight`, only `lm_head.weight`" + advice);
}

TEST(Tied, AHeadOfAnotherShapeIsRefused) {
  Tensors tensors = tensors_of("qwen2");
  tensors[kHead] = at::zeros({3, 24});
  const Folder folder("qwen2", tensors, true);
  EXPECT_EQ(refusal(folder).find(folder.file() + ": lm_head.weight is [3, 24], config.json asks for ["), 0u);
}

TEST(Tied, TensorsOfAnotherPrefixAreNamed) {
  for (const std::string prefix : {"", "language_model.model.", "transformer."}) {
    Tensors tensors;
    for (const auto& [name, tensor] : tensors_of("qwen2")) {
      const bool inside = name.starts_with("model.");
      if (inside) tensors[prefix + name.substr(6)] = tensor;
    }
    const Folder folder("qwen2", tensors, true);
    EXPECT_EQ(refusal(folder), folder.file() + ": there is no tensor `model.embed_tokens.weight`, but there is `" +
                                   prefix +
                                   "embed_tokens.weight`. Save the language model with its head (…ForCausalLM), or "
                                   "rename the tensors.");
  }
}

TEST(Tied, FrequenciesInTheFileAreIgnored) {
  Tensors tensors = tensors_of("qwen2");
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = at::ones({3});
  EXPECT_EQ(refusal(Folder("qwen2", tensors, true)), "");
}

}  // namespace
