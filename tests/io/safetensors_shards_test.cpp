// Directories: a single file, shards with an index, and what can be wrong between the two.
#include <gmock/gmock.h>

#include <filesystem>

#include "core/io/safetensors.h"
#include "tests/io/support.h"

namespace core {
namespace {

using ::testing::ElementsAre;

constexpr const char* kIndex = "model.safetensors.index.json";

// A file with these one-byte tensors, holding 'x' each.
std::string file_with(const std::vector<std::string>& names) {
  std::string header = "{";
  for (size_t i = 0; i < names.size(); ++i) {
    header += (i > 0 ? "," : "") + std::string("\"") + names[i] + R"(":{"dtype":"U8","shape":[1],"data_offsets":[)" +
              std::to_string(i) + "," + std::to_string(i + 1) + "]}";
  }
  return safetensors_bytes(header + "}", std::string(names.size(), 'x'));
}

std::string open_message(const Scratch& scratch) {
  return message_of([&] { Checkpoint::open(scratch.path()); });
}

TEST(Shards, TensorsComeFromAllFilesOfTheIndex) {
  const Scratch scratch;
  scratch.put("one.safetensors", file_with({"a"}));
  scratch.put("two.safetensors", file_with({"b", "c"}));
  scratch.put("stranger.safetensors", file_with({"d"}));
  const std::string index = scratch.put(
      kIndex,
      R"({"metadata":{"total_size":3},"weight_map":{"a":"one.safetensors","b":"two.safetensors","c":"two.safetensors"}})");
  for (const std::string& path : {scratch.path(), index}) {
    const Checkpoint checkpoint = Checkpoint::open(path);
    EXPECT_THAT(checkpoint.names(), ElementsAre("a", "b", "c"));
    EXPECT_THAT(checkpoint.files(), ElementsAre(scratch.file("one.safetensors"), scratch.file("two.safetensors")));
    EXPECT_EQ(checkpoint.file_of("c"), scratch.file("two.safetensors"));
    EXPECT_EQ(checkpoint.total_bytes(), 3u);
  }
}

TEST(Shards, ASingleFileGoesBeforeAnIndex) {
  const Scratch scratch;
  scratch.put("model.safetensors", file_with({"a"}));
  scratch.put(kIndex, "not even JSON");
  EXPECT_THAT(Checkpoint::open(scratch.path()).names(), ElementsAre("a"));
}

TEST(Shards, ADirectoryWithoutAModelIsRefused) {
  const Scratch scratch;
  EXPECT_EQ(open_message(scratch), scratch.path() +
                                       ": no model.safetensors or model.safetensors.index.json here. Other formats are "
                                       "converted with save_pretrained of transformers.");
}

TEST(Shards, AMissingShardIsNamed) {
  const Scratch scratch;
  scratch.put("one.safetensors", file_with({"a"}));
  const std::string index = scratch.put(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_EQ(open_message(scratch), index + ": the shard two.safetensors is missing beside it. Download that file.");
}

TEST(Shards, ATensorThatIsNotWhereTheIndexPutsItIsNamed) {
  const Scratch scratch;
  scratch.put("one.safetensors", file_with({"a"}));
  const std::string index = scratch.put(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"one.safetensors"}})");
  EXPECT_EQ(open_message(scratch),
            index + ": tensor `b` is not in one.safetensors, where the index puts it. Download both files again.");
  scratch.put("two.safetensors", file_with({"b"}));
  scratch.put(kIndex, R"({"weight_map":{"a":"two.safetensors","b":"one.safetensors"}})");
  EXPECT_EQ(open_message(scratch),
            index + ": tensor `a` is not in two.safetensors, where the index puts it. Download both files again.");
}

TEST(Shards, ATensorInTwoShardsIsNamed) {
  const Scratch scratch;
  scratch.put("one.safetensors", file_with({"a", "b"}));
  scratch.put("two.safetensors", file_with({"b"}));
  scratch.put(kIndex, R"({"weight_map":{"a":"one.safetensors","b":"two.safetensors"}})");
  EXPECT_EQ(open_message(scratch), scratch.file("two.safetensors") + ": tensor `b` is also in " +
                                       scratch.file("one.safetensors") +
                                       ". Remove the file that does not belong here.");
}

TEST(Shards, ABrokenShardIsNamed) {
  const Scratch scratch;
  const std::string shard = scratch.put("one.safetensors", "short");
  scratch.put(kIndex, R"({"weight_map":{"a":"one.safetensors"}})");
  EXPECT_EQ(open_message(scratch),
            shard + ": 5 bytes are too few for the 8 bytes of the header length. Download or write the file again.");
}

TEST(Shards, ABrokenIndexIsRefused) {
  const Scratch scratch;
  const auto with = [&](const std::string& text) {
    const std::string index = scratch.put(kIndex, text);
    return open_message(scratch).substr(index.size());
  };
  EXPECT_EQ(with("{\"weight_map\":\n x}"), ": the index is not JSON (line 2, column 2). Download the file again.");
  EXPECT_EQ(with("[]"), ": the index has no weight_map. Download the file again.");
  EXPECT_EQ(with(R"({"weight_map":[]})"), ": the index has no weight_map. Download the file again.");
  EXPECT_EQ(with(R"({"weight_map":{}})"), ": the weight_map is empty. Download the file again.");
  EXPECT_EQ(with(R"({"weight_map":{"a":"x","a":"y"}})"),
            ": the index has the name `a` twice. Download the file again.");
  for (const std::string shard : {"\"../x.safetensors\"", "\"/etc/passwd\"", "\"\"", "\"..\"", "7", "\"a/\""}) {
    EXPECT_EQ(with(R"({"weight_map":{"a":)" + shard + "}}"),
              ": tensor `a` is mapped to " + shard + ", not to a file beside the index. Download the file again.");
  }
}

TEST(Shards, AllModelsOfTheRepositoryOpen) {
  int opened = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(REFRAIN_SOURCE_DIR "/data")) {
    if (entry.path().extension() != ".safetensors") continue;
    const Checkpoint checkpoint = Checkpoint::open(entry.path().string());
    size_t bytes = 0;
    for (const std::string& name : checkpoint.names()) bytes += checkpoint.at(name).bytes;
    EXPECT_EQ(bytes, checkpoint.total_bytes());
    EXPECT_GT(bytes, 0u) << entry.path();
    ++opened;
  }
  EXPECT_GE(opened, 2);
}

}  // namespace
}  // namespace core
