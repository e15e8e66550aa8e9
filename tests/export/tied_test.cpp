// Checkpoints of models whose file and config.json do not say the same of embedding and head.
#include <gtest/gtest.h>

#include <cstring>
#include <map>
#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"
#include "tests/export/support.h"
#include "tests/support/logged.h"

namespace exports {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head.weight";
constexpr const char* kRtn = "{method: rtn, weight: {bits: 4, group_size: 8}}";

// A golden model, tied by config.json, with its tensors as `change` leaves them.
template <typename Change>
std::string changed_model(const core::Scratch& scratch, Change change) {
  const std::string from = golden("qwen3_tied");
  const auto checkpoint = core::Checkpoint::open(from);
  std::map<std::string, core::TensorToWrite> tensors;
  for (const std::string& name : checkpoint.names()) {
    const core::TensorView& view = checkpoint.at(name);
    tensors[name] = {name, view.dtype, view.shape, view.data};
  }
  change(tensors);
  std::vector<core::TensorToWrite> all;
  for (auto& [name, tensor] : tensors) {
    tensor.name = name;
    all.push_back(tensor);
  }
  const std::string directory = scratch.file("model");
  std::filesystem::create_directory(directory);
  std::filesystem::copy_file(from + "/config.json", directory + "/config.json");
  core::write_safetensors(directory + "/model.safetensors", all);
  return directory;
}

bool tied_by_config(const std::string& directory) {
  return nlohmann::json::parse(core::slurp(directory + "/config.json")).at("tie_word_embeddings").get<bool>();
}

TEST(TiedCheckpoint, OfTwoHeadsThatDifferSaysThatTheyAreNotTied) {
  const core::Scratch scratch;
  const Logged log;
  std::vector<char> head;
  const std::string source = changed_model(scratch, [&](auto& tensors) {
    const core::TensorToWrite& rows = tensors.at(kEmbedding);
    head.resize(core::size_of(rows.dtype) * static_cast<size_t>(rows.shape[0] * rows.shape[1]));
    std::memcpy(head.data(), rows.data, head.size());
    std::swap(head[1], head[3]);  // of two numbers of 16 bits
    std::swap(head[0], head[2]);
    tensors[kHead] = {kHead, rows.dtype, rows.shape, head.data()};
  });
  Opened opened = exports::opened(source);
  EXPECT_FALSE(opened.model->shape().tied);
  const std::string out = scratch.file("out");
  save(opened, kRtn, out);
  EXPECT_TRUE(tied_by_config(source));
  EXPECT_FALSE(tied_by_config(out));
  const auto expect_equal = [&] {
    Opened again = exports::opened(out);
    EXPECT_TRUE(at::equal(again.logits(), opened.logits()));
    EXPECT_FALSE(again.model->shape().tied);
    EXPECT_EQ(core::bill(*again.model).weights, core::bill(*opened.model).weights);
  };
  expect_equal();
  // A run builds the model that it restores from the config of its source.
  std::filesystem::copy_file(source + "/config.json", out + "/config.json",
                             std::filesystem::copy_options::overwrite_existing);
  expect_equal();
}

TEST(TiedCheckpoint, OfAPairUnderTheHeadsNameHasItUnderTheEmbeddingsWithTheSameBytes) {
  const core::Scratch scratch;
  const std::string source = changed_model(scratch, [](auto& tensors) {
    tensors[kHead] = tensors.at(kEmbedding);
    tensors.erase(kEmbedding);
  });
  Opened opened = exports::opened(source);
  const std::string out = scratch.file("out");
  save(opened, kRtn, out);
  EXPECT_TRUE(tied_by_config(out));
  const auto written = core::Checkpoint::open(out), read = core::Checkpoint::open(source);
  EXPECT_FALSE(written.has(kHead));
  EXPECT_EQ(written.at(kEmbedding).dtype, read.at(kHead).dtype);
  EXPECT_EQ(std::memcmp(written.at(kEmbedding).data, read.at(kHead).data, read.at(kHead).bytes), 0);
  EXPECT_TRUE(at::equal(exports::opened(out).logits(), opened.logits()));
}

}  // namespace
}  // namespace exports
