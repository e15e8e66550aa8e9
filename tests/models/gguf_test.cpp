// The golden models as llama.cpp's converter (convert_hf_to_gguf.py, 0c1e57098, --outtype f32) writes them: the same
// configuration where it counts, the same weights, and the logits that transformers computes on the source folder.
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/io/model_path.h"
#include "core/nn/rotary.h"
#include "core/walk.h"
#include "models/registry.h"
#include "tests/io/gguf_bytes.h"
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

}  // namespace
