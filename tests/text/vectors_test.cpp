// Token ids against the reference libraries: small tokenizers of tests/golden/text (made by tools/make_golden_text.py)
// and, where REFRAIN_DATA is set, llama.cpp's test vectors and whole corpora.
#include <fmt/core.h>

#include <filesystem>

#include "core/io/model_path.h"
#include "core/text/corpus.h"
#include "core/text/json_tokenizer.h"
#include "core/text/load_tokenizer.h"
#include "core/text/utf8.h"
#include "core/text/windows.h"
#include "tests/text/support.h"

namespace core {
namespace {

// The folders of tests/golden/text that hold a tokenizer.json.
std::vector<std::string> golden_tokenizers() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden(""))) {
    if (std::filesystem::exists(entry.path() / "tokenizer.json")) names.push_back(entry.path().filename());
  }
  return names;
}

class GoldenBpe : public testing::TestWithParam<std::string> {};

TEST_P(GoldenBpe, IdsEqualThoseOfTokenizers) {
  const auto tokenizer = load_tokenizer(golden(GetParam()));
  const nlohmann::json vectors = golden_json(GetParam() + "/vectors.json");
  ASSERT_GT(vectors.size(), 400u);
  for (const auto& vector : vectors)
    EXPECT_EQ(tokenizer->encode(vector[0].get<std::string>()), vector[1].get<Ids>()) << vector[0].dump();
}

TEST_P(GoldenBpe, DecodingGivesTheTextBack) {
  const auto tokenizer = load_tokenizer(golden(GetParam()));
  const bool composes = GetParam() == "qwen", prefixes = GetParam() == "gpt2";
  for (const auto& vector : golden_json(GetParam() + "/vectors.json")) {
    const auto text = vector[0].get<std::string>();
    const std::string decoded = tokenizer->decode(tokenizer->encode(text));
    if (composes) {
      EXPECT_EQ(nfc(decoded), nfc(text)) << vector[0].dump();
    } else if (!prefixes) {
      EXPECT_EQ(decoded, text) << vector[0].dump();
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GoldenBpe, testing::ValuesIn(golden_tokenizers()),
                         [](const auto& tested) { return tested.param; });

TEST(GoldenSentencePiece, IdsAndTextEqualThoseOfTheLibrary) {
  const auto tokenizer = load_tokenizer(golden("sentencepiece"));
  for (const auto& vector : golden_json("sentencepiece/vectors.json")) {
    const auto ids = vector[1].get<Ids>();
    EXPECT_EQ(tokenizer->encode(vector[0].get<std::string>()), ids) << vector[0].dump();
    EXPECT_EQ(tokenizer->decode(ids), vector[2].get<std::string>()) << vector[0].dump();
  }
}

// Vocabularies of characters: where spaces are put in front, what becomes of characters without a token, behaviours of
// Split, decoders; and flags of added tokens, of bytes and of characters. By `tokenizers` 0.23.
TEST(GoldenCharacters, IdsAndTextEqualThoseOfTokenizers) {
  const nlohmann::json golden = golden_json("characters.json");
  ASSERT_EQ(golden["cases"].size(), 22u);
  for (nlohmann::json change : golden["cases"]) {
    const nlohmann::json vectors = change["vectors"];
    ASSERT_GT(vectors.size(), 60u);
    change.erase("vectors");
    const JsonTokenizer tokenizer(characters_tokenizer(golden["base"], change).dump(), "tokenizer.json");
    for (const auto& vector : vectors) {
      EXPECT_EQ(tokenizer.encode(vector[0].get<std::string>()), vector[1].get<Ids>()) << vector[0] << change;
      EXPECT_EQ(tokenizer.decode(vector[1].get<Ids>()), vector[2].get<std::string>()) << vector[0] << change;
    }
  }
}

// Files beside a tokenizer.model or a tokenizer.json, by transformers 5.24.
TEST(GoldenSettings, IdsTextAndBosEqualThoseOfTransformers) {
  const nlohmann::json golden_cases = golden_json("settings.json"), base = golden_json("characters.json")["base"];
  ASSERT_EQ(golden_cases["cases"].size(), 10u);
  for (nlohmann::json files : golden_cases["cases"]) {
    const Scratch scratch;
    scratch.put("tokenizer_config.json", files["config"].dump());
    const nlohmann::json added = files.contains("files") ? files["files"] : nlohmann::json::object();
    for (const auto& [name, content] : added.items()) scratch.put(name, content.dump());
    if (files.contains("json")) {
      scratch.put("tokenizer.json", (files["json"] == "legacy" ? golden_cases["legacy"] : base).dump());
    } else {
      scratch.put("tokenizer.model", read_file(golden("sentencepiece/tokenizer.model")));
    }
    const nlohmann::json vectors = files["vectors"];
    files.erase("vectors");
    const auto tokenizer = load_tokenizer(scratch.path());
    EXPECT_EQ(tokenizer->adds_bos(), files["begins"].get<bool>()) << files;
    ASSERT_GT(vectors.size(), 50u);
    for (const auto& vector : vectors) {
      EXPECT_EQ(tokenizer->encode(vector[0].get<std::string>()), vector[1].get<Ids>()) << vector[0] << files;
      EXPECT_EQ(tokenizer->decode(vector[1].get<Ids>()), vector[2].get<std::string>()) << vector[0] << files;
    }
  }
}

// ---- the test data ----

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  size_t at = 0;
  for (size_t end; (end = text.find(separator, at)) != std::string::npos; at = end + separator.size())
    parts.push_back(text.substr(at, end - at));
  parts.push_back(text.substr(at));
  return parts;
}

Ids ids_of_line(const std::string& line) {
  Ids ids;
  for (const std::string& word : split_at(line, " "))
    if (!word.empty()) ids.push_back(std::stoi(word));
  return ids;
}

struct LlamaCpp {
  const char *tokenizer, *vectors;
};

class LlamaCppVectors : public testing::TestWithParam<LlamaCpp> {};

TEST_P(LlamaCppVectors, AreExact) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  const std::string base = test_data() + "/tokenizers/llama.cpp/ggml-vocab-" + GetParam().vectors + ".gguf";
  const auto texts = split_at(read_file(base + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = split_at(read_file(base + ".out"), "\n");
  ASSERT_EQ(texts.size(), 47u);
  ASSERT_EQ(lines.size(), texts.size());
  const auto tokenizer = load_tokenizer(test_data() + "/tokenizers/" + GetParam().tokenizer);
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(tokenizer->encode(texts[i]), ids_of_line(lines[i])) << texts[i];
}

INSTANTIATE_TEST_SUITE_P(All, LlamaCppVectors,
                         testing::Values(LlamaCpp{"qwen2", "qwen2"}, LlamaCpp{"deepseek-llm", "deepseek-llm"}));

// llama.cpp's sentencepiece vectors. Its own encoder and the library agree on them, so that nothing is added or
// stripped.
TEST(LlamaCppSentencePiece, VectorsAreExact) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  const std::string base = test_data() + "/tokenizers/llama.cpp/ggml-vocab-llama-spm.gguf";
  const auto texts = split_at(read_file(base + ".inp"), "\n__ggml_vocab_test__\n");
  const auto lines = split_at(read_file(base + ".out"), "\n");
  ASSERT_EQ(lines.size(), texts.size());
  const auto tokenizer = load_tokenizer(test_data() + "/tokenizers/llama2");  // which holds a tokenizer.json too
  EXPECT_EQ(tokenizer->vocabulary_size(), 32000);
  for (size_t i = 0; i < texts.size(); ++i) EXPECT_EQ(tokenizer->encode(texts[i]), ids_of_line(lines[i])) << texts[i];
}

// 64-bit FNV-1a of little-endian ids, as in the golden script.
std::string fnv1a(const Ids& ids) {
  uint64_t value = 0xCBF29CE484222325;
  for (const int32_t id : ids)
    for (int shift = 0; shift < 32; shift += 8)
      value = (value ^ ((static_cast<uint32_t>(id) >> shift) & 0xFF)) * 0x100000001B3;
  return fmt::format("{:016x}", value);
}

TEST(Corpora, WholeCorporaHaveTheReferencesIds) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  const Environment home("REFRAIN_HOME", REFRAIN_SOURCE_DIR);
  for (const auto& row : golden_json("data.json")) {
    const auto tokenizer = load_tokenizer(find_model(row["model"]));
    const Ids ids = tokenizer->encode(load_corpus(row["corpus"]).text);
    EXPECT_EQ(ids.size(), row["tokens"].get<size_t>()) << row.dump();
    EXPECT_EQ(Ids(ids.begin(), ids.begin() + 24), row["first"].get<Ids>()) << row.dump();
    EXPECT_EQ(Ids(ids.end() - 8, ids.end()), row["last"].get<Ids>()) << row.dump();
    EXPECT_EQ(fnv1a(ids), row["fnv1a"].get<std::string>()) << row.dump();
  }
}

TEST(Corpora, WindowsAreThoseOfTheExpectedPerplexities) {
  if (test_data().empty()) GTEST_SKIP() << "set REFRAIN_DATA to the folder with the test data";
  const Environment home("REFRAIN_HOME", REFRAIN_SOURCE_DIR);
  const auto rows = nlohmann::json::parse(read_file(test_data() + "/models/expected_perplexity.json"));
  int compared = 0;
  for (const auto& row : rows) {
    if (row["protocol"] != "gptq" || row["text"] != "wikitext2/test") continue;
    const auto tokenizer = load_tokenizer(find_model(row["model"]));
    const int64_t expected = row["windows"].get<int64_t>();
    const WindowOptions options{.seq_len = row["seq_len"], .bos = row["bos"], .windows = expected == 100 ? 100 : 0};
    const Windows windows = make_windows(load_corpus(row["text"]), *tokenizer, options);
    EXPECT_EQ(windows.count, expected) << row.dump();
    EXPECT_EQ(windows.scored(), row["tokens"].get<int64_t>()) << row.dump();
    ++compared;
  }
  EXPECT_EQ(compared, 6);
}

}  // namespace
}  // namespace core
