// The golden models as llama.cpp's converter (convert_hf_to_gguf.py, 0c1e57098, --outtype f32) writes them without a
// vocabulary: the same configuration where it counts, the same weights, and the logits that transformers computes on
// the source folder.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/io/gguf_header.h"
#include "core/io/model_path.h"
#include "core/io/safetensors.h"
#include "core/nn/rotary.h"
#include "core/walk.h"
#include "models/registry.h"
#include "tests/io/gguf_bytes.h"
#include "tests/io/support.h"
#include "tests/models/support.h"

namespace {

// Golden folders with a model.gguf beside the safetensors.
std::vector<std::string> folders() {
  std::vector<std::string> all{std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf/qwen2_moe"};
  for (const std::string& name : golden_names()) {
    if (std::filesystem::exists(golden_directory(name) + "/model.gguf")) all.push_back(golden_directory(name));
  }
  return all;
}

std::string name_of(const std::string& folder) { return std::filesystem::path(folder).filename().string(); }

class GgufModel : public testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradient_;
  std::shared_ptr<core::Model> from_folder_ = load_model(GetParam());
  std::shared_ptr<core::Model> from_file_ = load_model(GetParam() + "/model.gguf");
};

INSTANTIATE_TEST_SUITE_P(Converted, GgufModel, testing::ValuesIn(folders()),
                         [](const auto& info) { return name_of(info.param); });

TEST(GgufModels, CoverEveryFamily) {
  std::set<std::string> covered;
  for (const std::string& folder : folders()) covered.insert(core::read_model_config(folder).text("model_type"));
  for (const std::string& family : models::families()) EXPECT_EQ(covered.count(family), 1u) << family;
}

TEST_P(GgufModel, HoldsTheWeightsOfItsFolder) {
  const std::vector<core::State> wanted = core::named_state(*from_folder_), found = core::named_state(*from_file_);
  ASSERT_EQ(found.size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    EXPECT_EQ(found[i].name, wanted[i].name);
    EXPECT_TRUE(at::equal(found[i].tensor, wanted[i].tensor)) << wanted[i].name;
  }
}

TEST_P(GgufModel, ComputesTheLogitsOfItsFolder) {
  const at::Tensor ids = at::arange(40).remainder(from_folder_->shape().vocabulary).view({2, 20});
  EXPECT_LE(difference(from_file_->forward(ids), from_folder_->forward(ids)), 1e-4);
}

TEST_P(GgufModel, ComputesTheLogitsOfTransformers) {
  const std::string name = name_of(GetParam());
  if (GetParam() != golden_directory(name)) GTEST_SKIP() << "its folder is compared";
  EXPECT_LE(difference(from_file_->forward(expected_of(name, "ids")), expected_of(name, "logits")), 1e-4);
}

// The file has mscale_all_dim alone, because the models have mscale equal to it; the golden folder has not.
TEST(GgufModels, YarnOfDeepSeekV2HasOneTemperature) {
  const at::NoGradGuard no_gradient;
  const core::Scratch scratch;
  const std::string golden = golden_directory("deepseek_v2_yarn");
  std::string config = golden_file("deepseek_v2_yarn", "config.json");
  const std::string other = "\"mscale\": 0.707";
  ASSERT_NE(config.find(other), std::string::npos);
  config.replace(config.find(other), other.size(), "\"mscale\": 0.9");
  scratch.put("config.json", config);
  for (const auto& entry : std::filesystem::directory_iterator(golden)) {
    const std::string name = entry.path().filename();
    if (name.starts_with("model")) scratch.put(name, core::slurp(entry.path()));
  }
  const auto folder = load_model(scratch.path());
  const auto file = load_model(std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf/deepseek_v2_yarn/model.gguf");
  const at::Tensor ids = at::arange(40).remainder(folder->shape().vocabulary).view({2, 20});
  EXPECT_LE(difference(file->forward(ids), folder->forward(ids)), 1e-4);
}

// Puts a key as it stands in another file; `as`: another name for it.
void copy_key(core::GgufBytes& file, const std::string& as, const core::GgufValue& value) {
  if (value.type == "string") return file.key(as, std::string(value.texts.at(0)));
  if (value.type == "float32") return file.key(as, static_cast<float>(value.numbers.at(0)));
  if (value.type == "bool") return file.key(as, value.integers.at(0) != 0);
  file.key(as, static_cast<uint32_t>(value.integers.at(0)));
}

// Converters of before April 2025 left kv_b in one piece and gave the widths of heads by the plain keys.
TEST(GgufModels, KvBOfDeepSeekV2MayBeInOnePiece) {
  const at::NoGradGuard no_gradient;
  const core::Scratch scratch;
  const std::string folder = golden_directory("deepseek_v2"), converted = core::slurp(folder + "/model.gguf");
  const core::GgufHeader header = core::parse_gguf_header(converted, "model.gguf");
  const core::Checkpoint weights = core::Checkpoint::open(folder);
  const std::string attention = "deepseek2.attention.", latent = "_mla";
  core::GgufBytes whole;
  for (const auto& [name, value] : header.values) {
    if (header.values.contains(name + latent)) continue;
    if (name == attention + "head_count_kv") {
      copy_key(whole, name, header.values.at(attention + "head_count"));
    } else {
      copy_key(whole, name.ends_with(latent) ? name.substr(0, name.size() - latent.size()) : name, value);
    }
  }
  int64_t joined = 0;
  for (const core::GgufEntry& entry : header.tensors) {
    if (entry.name.find("attn_v_b") != std::string::npos) continue;
    const size_t part = entry.name.find("attn_k_b");
    if (part == std::string::npos) {
      whole.tensor(entry.name, {entry.shape.begin(), entry.shape.end()}, entry.type->id,
                   converted.substr(entry.begin, entry.bytes));
      continue;
    }
    const std::string block = entry.name.substr(4, part - 5);  // "blk.<block>.attn_k_b.weight"
    const core::TensorView& kv_b = weights.at("model.layers." + block + ".self_attn.kv_b_proj.weight");
    whole.tensor("blk." + block + ".attn_kv_b.weight", {kv_b.shape.begin(), kv_b.shape.end()}, /*F32*/ 0,
                 {reinterpret_cast<const char*>(kv_b.data), kv_b.bytes});
    ++joined;
  }
  const auto from_folder = load_model(folder);
  ASSERT_EQ(joined, from_folder->shape().layers);
  scratch.put("whole.gguf", whole.bytes());
  const auto from_file = load_model(scratch.path() + "/whole.gguf");
  const at::Tensor ids = at::arange(40).remainder(from_folder->shape().vocabulary).view({2, 20});
  EXPECT_TRUE(at::equal(from_file->forward(ids), from_folder->forward(ids)));
}

}  // namespace
