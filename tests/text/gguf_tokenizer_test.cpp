// Tokenizers inside of GGUF files: the ids of those of the Hugging Face folder, and of llama.cpp.
#include "core/text/gguf_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "core/text/load_tokenizer.h"
#include "tests/io/gguf_of_folder.h"
#include "tests/io/support.h"

namespace core {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

std::unique_ptr<Tokenizer> tokenizer_of(const std::string& file) {
  return load_tokenizer(ModelTexts{file, gguf_tokenizer(Gguf::open(file))});
}

class GgufTokenizers : public testing::Test {
 protected:
  std::string put(const GgufBytes& file) { return scratch_.put("m.gguf", file.bytes()); }
  std::string refusal(const GgufBytes& file) {
    const std::string path = put(file), message = message_of([&] { tokenizer_of(path); });
    return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
  }
  Scratch scratch_;
};

TEST_F(GgufTokenizers, ByteLevelIdsAreThoseOfTheFolder) {
  const std::string folder = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";
  const auto wanted = load_tokenizer(folder);
  const auto found = tokenizer_of(put(as_gguf(json::parse(read_file(folder + "/tokenizer.json")), "qwen2")));
  for (const char* text : {"Frieda Abbot likes onion soup best.", "  two  spaces\n\n and 1234 numbers",
                           "e\xCC\x81t\xC3\xA9", "<|endoftext|>behind", "\t'Tis THE'RE we'll", ""}) {
    EXPECT_EQ(found->encode(text), wanted->encode(text)) << text;
    EXPECT_EQ(found->decode(wanted->encode(text)), wanted->decode(wanted->encode(text))) << text;
  }
}

TEST_F(GgufTokenizers, SentencePieceIdsAreThoseOfTheLibrary) {
  const auto tokenizer = tokenizer_of(put(small_gguf()));
  EXPECT_EQ(tokenizer->encode("a a"), (Ids{3, 4, 3, 4}));
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_TRUE(tokenizer->adds_bos()) << "as llama.cpp has it where the file does not say";
  EXPECT_TRUE(tokenizer->ends_text(2));
  EXPECT_EQ(tokenizer->decode(Ids{3, 4, 3, 4}), "a a");
}

TEST_F(GgufTokenizers, BosAndAllEndsComeFromTheFile) {
  GgufBytes file =
      as_gguf(json::parse(read_file(std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3/tokenizer.json")), "gpt-2");
  file.key("tokenizer.ggml.bos_token_id", uint32_t{5});
  file.key("tokenizer.ggml.eos_token_id", uint32_t{6});
  file.key("tokenizer.ggml.eot_token_id", uint32_t{7});
  file.key("tokenizer.ggml.add_bos_token", true);
  const auto tokenizer = tokenizer_of(put(file));
  EXPECT_TRUE(tokenizer->adds_bos());
  EXPECT_EQ(tokenizer->bos_id(), 5);
  for (const int32_t id : {6, 7}) EXPECT_TRUE(tokenizer->ends_text(id)) << id;
  EXPECT_FALSE(tokenizer->ends_text(5));
}

// As llama.cpp has it where the file does not say.
TEST_F(GgufTokenizers, TextsOfLlama3BeginWithBos) {
  const json small{{"model", {{"vocab", {{"a", 0}, {"b", 1}}}, {"merges", json::array()}}},
                   {"added_tokens", json::array()}};
  for (const auto& [pre, adds] : std::map<std::string, bool>{{"llama-bpe", true}, {"llama3", true}, {"qwen2", false}}) {
    for (const std::string& given : {"", "no"}) {
      GgufBytes file = as_gguf(small, pre);
      file.key("tokenizer.ggml.bos_token_id", uint32_t{1});
      if (!given.empty()) file.key("tokenizer.ggml.add_bos_token", false);
      const auto tokenizer = tokenizer_of(put(file));
      EXPECT_EQ(tokenizer->adds_bos(), adds && given.empty()) << pre << " " << given;
    }
  }
}

TEST_F(GgufTokenizers, WhatIsBrokenOrUnknownIsNamed) {
  GgufBytes kind;
  kind.key("tokenizer.ggml.model", std::string("t5"));
  EXPECT_THAT(refusal(kind),
              testing::StartsWith("tokenizer.ggml.model `t5` is not implemented. Use a model with one of"));
  GgufBytes pre;
  pre.key("tokenizer.ggml.model", std::string("gpt2"));
  pre.key("tokenizer.ggml.pre", std::string("tekken"));
  pre.key("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  pre.key("tokenizer.ggml.merges", std::vector<std::string>{});
  EXPECT_THAT(refusal(pre), testing::StartsWith("tokenizer.ggml.pre `tekken` is not implemented."));
  GgufBytes twice;
  twice.key("tokenizer.ggml.model", std::string("gpt2"));
  twice.key("tokenizer.ggml.tokens", std::vector<std::string>{"a", "a"});
  twice.key("tokenizer.ggml.merges", std::vector<std::string>{});
  EXPECT_THAT(refusal(twice), testing::StartsWith("tokenizer.ggml.tokens has `a` twice, as 0 and 1."));
  GgufBytes merge;
  merge.key("tokenizer.ggml.model", std::string("gpt2"));
  merge.key("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  merge.key("tokenizer.ggml.merges", std::vector<std::string>{"ab"});
  EXPECT_THAT(refusal(merge), testing::StartsWith("merge 0 of tokenizer.ggml.merges, `ab`, is not a pair of tokens."));
  GgufBytes kinds;
  kinds.key("tokenizer.ggml.model", std::string("gpt2"));
  kinds.key("tokenizer.ggml.tokens", std::vector<std::string>{"a"});
  kinds.key("tokenizer.ggml.token_type", std::vector<uint32_t>{1, 1});
  EXPECT_THAT(refusal(kinds),
              testing::StartsWith("tokenizer.ggml.tokens has 1 tokens, tokenizer.ggml.token_type 2 kinds."));
  GgufBytes special = small_gguf();
  special.key("tokenizer.ggml.unknown_token_id", uint32_t{9});
  EXPECT_THAT(refusal(special), testing::StartsWith("tokenizer.ggml.unknown_token_id is 9, but there are 5 tokens."));
}

// llama.cpp's own vectors, in the test data: vocabularies in GGUF files and the ids that it expects.
TEST(GgufVectors, IdsAreThoseOfLlamaCpp) {
  const std::string folder = environment("REFRAIN_DATA") + "/tokenizers/llama.cpp/";
  if (!is_directory(folder)) GTEST_SKIP() << "REFRAIN_DATA holds no tokenizers/llama.cpp: it names the test data";
  for (const char* name : {"deepseek-llm", "llama-spm"}) {
    const std::string file = folder + "ggml-vocab-" + name + ".gguf";
    const auto tokenizer = tokenizer_of(file);
    const std::string texts = read_file(file + ".inp");
    std::istringstream lines(read_file(file + ".out"));
    const std::string separator = "\n__ggml_vocab_test__\n";
    size_t count = 0;
    for (size_t at = 0; at < texts.size(); ++count) {
      const size_t end = std::min(texts.find(separator, at), texts.size());
      std::string line;
      std::getline(lines, line);
      std::istringstream words(line);
      Ids wanted;
      for (int32_t id; words >> id;) wanted.push_back(id);
      EXPECT_EQ(tokenizer->encode(texts.substr(at, end - at)), wanted) << name << ": " << texts.substr(at, end - at);
      at = end + separator.size();
    }
    EXPECT_GT(count, 40u);
  }
}

}  // namespace
}  // namespace core
