// The golden models as llama.cpp's converter (convert_hf_to_gguf.py, 0c1e57098, --outtype f32) writes them without a
// vocabulary: the same configuration where it counts, the same weights, and the logits that transformers computes on
// the source folder.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/io/model_path.h"
#include "core/nn/rotary.h"
#include "core/walk.h"
#include "models/registry.h"
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

}  // namespace
