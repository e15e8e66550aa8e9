#include "core/text/gguf_tokenizer_keys.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/hf_config.h"
#include "core/text/gguf_pre_tokenizer.h"
#include "core/text/tokenizer_settings.h"

namespace core {
namespace {

using nlohmann::json;

struct Tokens {
  std::vector<std::string> texts;
  std::vector<int32_t> kinds;
  std::vector<float> scores;  // of sentencepiece

  explicit Tokens(int64_t rows) : kinds(static_cast<size_t>(rows), unused), scores(kinds.size(), 0) {
    for (int64_t id = 0; id < rows; ++id) texts.push_back(fmt::format("[PAD{}]", id));
  }
  void put(const ModelTexts& from, int64_t id, const std::string& text, int32_t kind, float score = 0) {
    require(id >= 0 && id < std::ssize(texts), "{}: the tokenizer has a token {}, but the embedding {} rows.",
            from.where, id, texts.size());
    const auto at = static_cast<size_t>(id);
    texts[at] = text;
    kinds[at] = kind;
    scores[at] = score;
  }
};

// ---- tokenizer.json ----

GgufKeyValues keys_of_bpe(const ModelTexts& texts, int64_t rows) {
  const std::string where = texts.name_of("tokenizer.json");
  const json tokenizer = json::parse(TokenizerSettings(texts).applied_to(texts.at("tokenizer.json")));
  const json& model = tokenizer.at("model");
  require(model.value("type", "") == "BPE" && !model.value("byte_fallback", false),
          "{}: llama.cpp reads byte-level BPE and sentencepiece models, and this tokenizer is neither.", where);
  const auto pre = gguf_pre_tokenizer_of(tokenizer);
  require(pre.has_value(), "{}: its pre_tokenizer is none of those whose names in llama.cpp are known: {}.", where,
          fmt::join(gguf_pre_tokenizers(), ", "));
  Tokens tokens(rows);
  for (const auto& [text, id] : model.at("vocab").items()) tokens.put(texts, id, text, normal);
  for (const json& token : tokenizer.value("added_tokens", json::array()))
    tokens.put(texts, token.at("id"), token.at("content"), token.value("special", false) ? control : user_defined);
  std::vector<std::string> merges;
  for (const json& merge : model.at("merges"))
    merges.push_back(merge.is_string() ? merge.get<std::string>()
                                       : merge.at(0).get<std::string>() + " " + merge.at(1).get<std::string>());
  return {{"tokenizer.ggml.model", "gpt2"},
          {"tokenizer.ggml.pre", *pre},
          {"tokenizer.ggml.tokens", tokens.texts},
          {"tokenizer.ggml.token_type", tokens.kinds},
          {"tokenizer.ggml.merges", merges}};
}

// ---- tokenizer.model: protobuf's wire format (sentencepiece_model.proto) ----

// The fields of one message, in order.
class Fields {
 public:
  explicit Fields(std::string_view bytes) : rest_(bytes) {}
  // The next one; false: there is none.
  bool next() {
    if (rest_.empty()) return false;
    const uint64_t tag = take_number();
    field_ = static_cast<int>(tag >> 3);
    const auto wire = static_cast<int>(tag & 7);
    if (wire == 0) number_ = take_number();
    if (wire == 1) take(8);
    if (wire == 2) text_ = take(take_number());
    if (wire == 5) text_ = take(4);
    require(wire == 0 || wire == 1 || wire == 2 || wire == 5, "its bytes are no sentencepiece model");
    return true;
  }
  int field() const { return field_; }
  uint64_t number() const { return number_; }
  std::string_view text() const { return text_; }
  float real() const {
    uint32_t bits = 0;
    for (size_t i = 0; i < text_.size(); ++i) bits |= static_cast<uint32_t>(static_cast<uint8_t>(text_[i])) << 8 * i;
    return std::bit_cast<float>(bits);
  }

 private:
  uint64_t take_number() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<uint8_t>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) break;
    }
    return value;
  }
  std::string_view take(uint64_t bytes) {
    require(bytes <= rest_.size(), "its bytes end in the middle of a sentencepiece model");
    const std::string_view taken = rest_.substr(0, bytes);
    rest_.remove_prefix(bytes);
    return taken;
  }

  std::string_view rest_, text_;
  int field_ = 0;
  uint64_t number_ = 0;
};

void put_piece(const ModelTexts& texts, std::string_view bytes, int64_t id, Tokens& tokens) {
  std::string text;
  float score = 0;
  int32_t kind = normal;
  for (Fields piece(bytes); piece.next();) {
    if (piece.field() == 1) text = piece.text();
    if (piece.field() == 2) score = piece.real();
    if (piece.field() == 3) kind = static_cast<int32_t>(piece.number());
  }
  // A single character is found by byte pair encoding too. Readers cut texts at user-defined tokens, and put a space
  // behind them that was not there.
  const auto characters = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  if (kind == user_defined && characters == 1) kind = normal;
  tokens.put(texts, id, text, kind, score);
}

GgufKeyValues keys_of_sentencepiece(const ModelTexts& texts, int64_t rows) {
  const std::string where = texts.name_of("tokenizer.model");
  Tokens tokens(rows);
  int64_t pieces = 0;
  uint64_t algorithm = 1, unknown = 0;
  bool adds_space = true;
  try {
    for (Fields model(texts.at("tokenizer.model")); model.next();) {
      if (model.field() == 1) put_piece(texts, model.text(), pieces++, tokens);
      for (Fields trainer(model.text()); model.field() == 2 && trainer.next();) {
        if (trainer.field() == 3) algorithm = trainer.number();
        if (trainer.field() == 40) unknown = trainer.number();
      }
      for (Fields normalizer(model.text()); model.field() == 3 && normalizer.next();) {
        if (normalizer.field() == 3) adds_space = normalizer.number() != 0;
      }
    }
  } catch (const UserError& error) {
    fail("{}: {}. Copy it anew.", where, error.what());
  }
  require(algorithm == 2, "{}: llama.cpp reads sentencepiece models of byte pair encoding alone.", where);
  const SentencePieceOptions options =
      TokenizerSettings(texts).for_sentencepiece(texts.has("tokenizer.json") ? texts.at("tokenizer.json") : "");
  for (const AddedToken& token : options.added) {
    const bool of_model = token.id < pieces;  // the model knows its kind
    if (!of_model) tokens.put(texts, token.id, token.content, control);
  }
  adds_space = adds_space && options.prefix != SentencePieceOptions::Prefix::never;
  return {{"tokenizer.ggml.model", "llama"},
          {"tokenizer.ggml.pre", "default"},
          {"tokenizer.ggml.tokens", tokens.texts},
          {"tokenizer.ggml.scores", tokens.scores},
          {"tokenizer.ggml.token_type", tokens.kinds},
          {"tokenizer.ggml.unknown_token_id", static_cast<uint32_t>(unknown)},
          {"tokenizer.ggml.add_space_prefix", adds_space}};
}

std::string chat_template(const ModelTexts& texts) {
  if (texts.has("chat_template.jinja")) return texts.at("chat_template.jinja");
  if (!texts.has("tokenizer_config.json")) return {};
  const JsonObject config =
      JsonObject::parse(texts.at("tokenizer_config.json"), texts.name_of("tokenizer_config.json"));
  const bool is_text = config.has("chat_template") && config.raw().at("chat_template").is_string();
  return is_text ? config.text("chat_template") : "";
}

}  // namespace

GgufKeyValues gguf_tokenizer_keys(const ModelTexts& texts, const Tokenizer& tokenizer, int64_t rows) {
  GgufKeyValues keys = texts.has("tokenizer.model") ? keys_of_sentencepiece(texts, rows) : keys_of_bpe(texts, rows);
  if (const auto bos = tokenizer.bos_id())
    keys.emplace_back("tokenizer.ggml.bos_token_id", static_cast<uint32_t>(*bos));
  const std::vector<int32_t>& ends = tokenizer.eos_ids();
  if (!ends.empty()) keys.emplace_back("tokenizer.ggml.eos_token_id", static_cast<uint32_t>(ends[0]));
  if (ends.size() > 1) keys.emplace_back("tokenizer.ggml.eot_token_id", static_cast<uint32_t>(ends[1]));
  keys.emplace_back("tokenizer.ggml.add_bos_token", tokenizer.adds_bos());
  if (std::string chat = chat_template(texts); !chat.empty())
    keys.emplace_back("tokenizer.chat_template", std::move(chat));
  return keys;
}

}  // namespace core
