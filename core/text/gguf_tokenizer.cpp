#include "core/text/gguf_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/io/json_text.h"
#include "core/text/gguf_pre_tokenizer.h"
#include "core/text/utf8.h"

namespace core {
namespace {

using nlohmann::json;

constexpr const char* kConvertAgain = "Convert the model again with a recent llama.cpp.";

// Tokens with their kinds, checked.
struct GgufVocabulary {
  explicit GgufVocabulary(const Gguf& file)
      : tokens(file.texts("tokenizer.ggml.tokens")),
        kinds(file.has("tokenizer.ggml.token_type") ? file.integers("tokenizer.ggml.token_type")
                                                    : std::vector<int64_t>(tokens.size(), normal)) {
    require(!tokens.empty() && kinds.size() == tokens.size(),
            "{}: tokenizer.ggml.tokens has {} tokens, tokenizer.ggml.token_type {} kinds. {}", file.where(),
            tokens.size(), kinds.size(), kConvertAgain);
    for (size_t id = 0; id < tokens.size(); ++id) {
      require(is_utf8(tokens[id]), "{}: token {} of tokenizer.ggml.tokens is not UTF-8. {}", file.where(), id,
              kConvertAgain);
    }
  }
  // Found in a text before it is cut into words.
  bool is_added(size_t id) const { return kinds[id] == control || kinds[id] == user_defined; }

  const std::vector<std::string_view>& tokens;
  std::vector<int64_t> kinds;
};

json added_token(const GgufVocabulary& vocabulary, size_t id) {
  return {{"id", id},
          {"content", vocabulary.tokens[id]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", vocabulary.kinds[id] == control}};
}

// ---- gpt2 ----

std::string pre_tokenizer_name(const Gguf& file) { return file.text("tokenizer.ggml.pre", "default"); }

bool is_llama3(const std::string& name) { return name == "llama-bpe" || name == "llama3" || name == "llama-v3"; }

GgufPreTokenizer pre_tokenizer(const Gguf& file) {
  const std::string name = pre_tokenizer_name(file);
  if (auto known = gguf_pre_tokenizer(is_llama3(name) ? "llama-bpe" : name)) return *std::move(known);
  fail("{}: tokenizer.ggml.pre `{}` is not implemented. Use a model with one of: {}.", file.where(), printable(name),
       fmt::join(gguf_pre_tokenizers(), ", "));
}

// "a b", cut at the first space behind the first character; a merge of spaces has none before.
json merge_of(const Gguf& file, std::string_view merge, size_t index) {
  const size_t space = merge.find(' ', 1);
  require(is_utf8(merge) && space != std::string_view::npos && space + 1 < merge.size(),
          "{}: merge {} of tokenizer.ggml.merges, `{}`, is not a pair of tokens. {}", file.where(), index,
          printable(merge), kConvertAgain);
  return {merge.substr(0, space), merge.substr(space + 1)};
}

// The token of a role ("bos"); -1: the file names none.
int64_t special_id(const Gguf& file, const GgufVocabulary& vocabulary, const std::string& role) {
  const std::string key = "tokenizer.ggml." + role + "_token_id";
  if (!file.has(key)) return -1;
  const int64_t id = file.integer(key);
  require(id >= 0 && id < std::ssize(vocabulary.tokens), "{}: {} is {}, but there are {} tokens. {}", file.where(), key,
          id, vocabulary.tokens.size(), kConvertAgain);
  return id;
}

// Whether BOS begins every text. Files of Llama 3 need not say so.
bool adds_bos(const Gguf& file, bool is_sentencepiece) {
  return file.boolean("tokenizer.ggml.add_bos_token", is_sentencepiece || is_llama3(pre_tokenizer_name(file)));
}

// What begins every text: BOS, where the file says so.
json post_processor(const Gguf& file, const GgufVocabulary& vocabulary) {
  const int64_t bos = special_id(file, vocabulary, "bos");
  if (bos < 0 || !adds_bos(file, /*is_sentencepiece=*/false)) return nullptr;
  const std::string token(vocabulary.tokens[static_cast<size_t>(bos)]);
  const json special{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json ids{{"id", token}, {"ids", {bos}}, {"tokens", {token}}};
  return {{"type", "TemplateProcessing"},
          {"single", json::array({special, text})},
          {"pair", json::array({special, text})},
          {"special_tokens", {{token, ids}}}};
}

std::string tokenizer_json(const Gguf& file, const GgufVocabulary& vocabulary) {
  json ids = json::object(), added = json::array(), merges = json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.is_added(id)) added.push_back(added_token(vocabulary, id));
    if (vocabulary.is_added(id) || vocabulary.kinds[id] == unused) continue;  // unused: rows that fill the embedding
    const auto [known, is_new] = ids.emplace(std::string(vocabulary.tokens[id]), id);
    require(is_new, "{}: tokenizer.ggml.tokens has `{}` twice, as {} and {}. {}", file.where(),
            printable(vocabulary.tokens[id]), known.value().get<size_t>(), id, kConvertAgain);
  }
  const std::vector<std::string_view>& pairs = file.texts("tokenizer.ggml.merges");
  for (size_t i = 0; i < pairs.size(); ++i) merges.push_back(merge_of(file, pairs[i], i));
  GgufPreTokenizer kind = pre_tokenizer(file);
  const json tokenizer{{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", std::move(added)},
                       {"normalizer", kind.nfc ? json{{"type", "NFC"}} : json()},
                       {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(kind.stages)}}},
                       {"post_processor", post_processor(file, vocabulary)},
                       {"decoder", byte_level(true)},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", kind.ignore_merges},
                         {"vocab", std::move(ids)},
                         {"merges", std::move(merges)}}}};
  return tokenizer.dump();
}

// ---- llama: a sentencepiece model, in protobuf's wire format (sentencepiece_model.proto) ----

// A message under construction: fields in the order in which they are put.
class Message {
 public:
  void put(int field, std::string_view text) {
    tag(field, 2);
    number(text.size());
    bytes_ += text;
  }
  void put(int field, const Message& message) { put(field, std::string_view(message.bytes_)); }
  void put(int field, int64_t value) {
    tag(field, 0);
    number(static_cast<uint64_t>(value));
  }
  void put(int field, float value) {
    tag(field, 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> 8 * i & 255);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, int wire_type) { number(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type)); }
  void number(uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>((value & 127) | 128);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

std::string tokenizer_model(const Gguf& file, const GgufVocabulary& vocabulary) {
  const std::vector<double>& scores = file.numbers("tokenizer.ggml.scores");
  require(scores.size() == vocabulary.tokens.size(),
          "{}: tokenizer.ggml.tokens has {} tokens, tokenizer.ggml.scores {} scores. {}", file.where(),
          vocabulary.tokens.size(), scores.size(), kConvertAgain);
  Message model, trainer, normalizer;
  bool byte_fallback = false;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Message piece;
    piece.put(1, vocabulary.tokens[id]);
    piece.put(2, static_cast<float>(scores[id]));
    piece.put(3, vocabulary.kinds[id]);
    byte_fallback |= vocabulary.kinds[id] == byte;
    model.put(1, piece);
  }
  trainer.put(3, int64_t{2});  // byte pair encoding
  trainer.put(4, std::ssize(vocabulary.tokens));
  trainer.put(35, int64_t{byte_fallback});
  const std::vector<std::pair<const char*, int>> roles{{"unknown", 40}, {"bos", 41}, {"eos", 42}, {"padding", 43}};
  for (const auto& [role, field] : roles) {
    const int64_t id = special_id(file, vocabulary, role);
    trainer.put(field, id);
    if (id >= 0) trainer.put(field + 5, vocabulary.tokens[static_cast<size_t>(id)]);  // unk_piece = 45, ...
  }
  normalizer.put(1, "identity");
  normalizer.put(3, int64_t{file.boolean("tokenizer.ggml.add_space_prefix", true)});
  normalizer.put(4, int64_t{file.boolean("tokenizer.ggml.remove_extra_whitespaces", false)});
  normalizer.put(5, int64_t{1});  // spaces are written ▁
  model.put(2, trainer);
  model.put(3, normalizer);
  return model.bytes();
}

// ---- which tokens begin and end a text ----

std::string tokenizer_config(const Gguf& file, const GgufVocabulary& vocabulary, bool is_sentencepiece) {
  json config{{"add_bos_token", adds_bos(file, is_sentencepiece)}};
  for (const char* role : {"bos", "eos"}) {
    const int64_t id = special_id(file, vocabulary, role);
    if (id >= 0) config[std::string(role) + "_token"] = vocabulary.tokens[static_cast<size_t>(id)];
  }
  if (is_sentencepiece) {
    json added = json::object();
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
      if (vocabulary.is_added(id)) added[std::to_string(id)] = added_token(vocabulary, id);
    }
    config["added_tokens_decoder"] = std::move(added);
  }
  if (file.has("tokenizer.chat_template")) config["chat_template"] = file.text("tokenizer.chat_template");
  return config.dump(2) + "\n";
}

// A text ends at any of them, as llama.cpp ends it.
std::string generation_config(const Gguf& file, const GgufVocabulary& vocabulary) {
  std::vector<int64_t> ends;
  for (const char* role : {"eos", "eot", "eom"}) {
    const int64_t id = special_id(file, vocabulary, role);
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  return json{{"eos_token_id", ends}}.dump(2) + "\n";
}

}  // namespace

std::map<std::string, std::string> gguf_tokenizer(const Gguf& file) {
  const std::string model = file.text("tokenizer.ggml.model");
  require(model == "gpt2" || model == "llama",
          "{}: tokenizer.ggml.model `{}` is not implemented. Use a model with one of: gpt2, llama.", file.where(),
          printable(model));
  const GgufVocabulary vocabulary(file);
  std::map<std::string, std::string> out;
  if (model == "gpt2") {
    out["tokenizer.json"] = tokenizer_json(file, vocabulary);
  } else {
    out["tokenizer.model"] = tokenizer_model(file, vocabulary);
  }
  out["tokenizer_config.json"] = tokenizer_config(file, vocabulary, model == "llama");
  out["generation_config.json"] = generation_config(file, vocabulary);
  return out;
}

}  // namespace core
