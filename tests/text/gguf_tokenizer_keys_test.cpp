// Tokenizers written into GGUF files give the ids that they gave before; what llama.cpp has no name for is refused.
#include "core/text/gguf_tokenizer_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "core/io/gguf.h"
#include "core/text/gguf_pre_tokenizer.h"
#include "core/text/gguf_tokenizer.h"
#include "core/text/load_tokenizer.h"
#include "tests/text/support.h"

namespace core {
namespace {

using testing::HasSubstr;

const std::vector<std::string> kTexts{"Frieda Abbot likes onion soup best.",
                                      "  two  spaces\n\n and 1234 numbers, 56",
                                      "e\xCC\x81t\xC3\xA9 \xE6\x97\xA5\xE6\x9C\xAC",
                                      "\t'Tis THE'RE we'll",
                                      "a",
                                      ""};

// Written into a file and read back.
std::unique_ptr<Tokenizer> through_gguf(const ModelTexts& texts, int64_t rows) {
  const Scratch scratch;
  const auto tokenizer = load_tokenizer(texts);
  GgufWriter(scratch.path()).write(scratch.file("m.gguf"), gguf_tokenizer_keys(texts, *tokenizer, rows), 1 << 30);
  return load_tokenizer(ModelTexts{"m.gguf", gguf_tokenizer(Gguf::open(scratch.file("m.gguf")))});
}

void expect_the_same_ids(const ModelTexts& texts) {
  const auto before = load_tokenizer(texts);
  const auto after = through_gguf(texts, before->vocabulary_size() + 3);  // an embedding has more rows
  for (const std::string& text : kTexts) {
    EXPECT_EQ(after->encode(text), before->encode(text)) << text;
    EXPECT_EQ(after->decode(before->encode(text)), before->decode(before->encode(text))) << text;
  }
  EXPECT_EQ(after->bos_id(), before->bos_id());
  EXPECT_EQ(after->eos_ids(), before->eos_ids());
  EXPECT_EQ(after->adds_bos(), before->adds_bos());
}

TEST(GgufTokenizerKeys, KeepIdsOfBytePairs) {
  expect_the_same_ids(read_model_texts(std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3"));
  for (const char* name : {"qwen", "llama3"}) {
    SCOPED_TRACE(name);
    expect_the_same_ids(read_model_texts(golden(name)));
  }
}

// The test data's tokenizers of real models, by bytes and by characters.
TEST(GgufTokenizerKeys, KeepIdsOfRealTokenizers) {
  if (test_data().empty()) GTEST_SKIP() << "REFRAIN_DATA is not set: it names the test data";
  for (const char* name : {"qwen2", "deepseek-llm"}) {
    SCOPED_TRACE(name);
    expect_the_same_ids(read_model_texts(test_data() + "/tokenizers/" + name));
  }
  for (const char* model : {"wiki-deepseek-moe", "stories260K/hf_llama"}) {
    SCOPED_TRACE(model);
    expect_the_same_ids(read_model_texts(test_data() + "/models/" + model));
  }
}

TEST(GgufTokenizerKeys, NameThePreTokenizer) {
  EXPECT_EQ(gguf_pre_tokenizer_of(golden_json("qwen/tokenizer.json")), "qwen2");
  EXPECT_EQ(gguf_pre_tokenizer_of(golden_json("llama3/tokenizer.json")), "llama-bpe");
  EXPECT_EQ(gguf_pre_tokenizer_of(golden_json("gpt2/tokenizer.json")), std::nullopt) << "a space in front of the text";
  for (const std::string& name : gguf_pre_tokenizers()) {
    const GgufPreTokenizer known = *gguf_pre_tokenizer(name);
    const nlohmann::json file{{"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", known.stages}}},
                              {"normalizer", known.nfc ? nlohmann::json{{"type", "NFC"}} : nlohmann::json()},
                              {"model", {{"ignore_merges", known.ignore_merges}}}};
    EXPECT_EQ(gguf_pre_tokenizer_of(file), name);
  }
}

TEST(GgufTokenizerKeys, SayWhatCannotBeWritten) {
  const ModelTexts qwen = read_model_texts(golden("qwen"));
  EXPECT_THAT(message_of([&] { through_gguf(qwen, 10); }), HasSubstr("but the embedding 10 rows"));
  const ModelTexts other = read_model_texts(golden("line_ends"));
  EXPECT_THAT(message_of([&] { through_gguf(other, 1000); }), HasSubstr("are known: gpt-2, smollm, qwen2"));
}

}  // namespace
}  // namespace core
