#include "core/text/json_tokenizer.h"

#include <fmt/ranges.h>

#include "core/error.h"
#include "core/io/hash.h"
#include "core/io/json_text.h"
#include "core/text/byte_alphabet.h"
#include "core/text/post_processor.h"
#include "core/text/utf8.h"

namespace core {
namespace {

// Before all else: a file of another kind is refused by what it is, not by its normalizer.
const JsonNode& require_bpe(const JsonNode& json) {
  const JsonNode type = json.at("model").at("type");
  if (!type.is_null() && type.text() != "BPE") json.at("model").refuse_type({"BPE"});
  return json;
}

void require_byte_level(const JsonNode& json) {
  require(!json.is_null(), "{} is missing. A byte-level tokenizer needs ByteLevel.", json.where());
  if (json.type() != "ByteLevel") json.refuse_type({"ByteLevel"});
}

}  // namespace

JsonTokenizer::JsonTokenizer(std::string_view text, const std::string& file)
    : JsonTokenizer(JsonNode(parse_json(text, {file, "the text", "Replace the file."}), file, ""), text) {}

JsonTokenizer::JsonTokenizer(const JsonNode& json, std::string_view text)
    : file_(json.file()),
      normalizer_(require_bpe(json).at("normalizer")),
      pre_tokenizer_(json.at("pre_tokenizer")),
      byte_level_(pre_tokenizer_.byte_level()),
      model_(json.at("model"), byte_level_ ? BpeModel::Units::bytes : BpeModel::Units::characters) {
  hash_ = hash_text(text);
  special_ = begins_as(json.at("post_processor"));
  if (byte_level_) {
    require_byte_level(json.at("decoder"));
  } else {
    decoder_.emplace(json.at("decoder"));
  }
  for (const auto& [token, id] : model_.vocabulary()) {
    if (tokens_.size() <= static_cast<size_t>(id)) tokens_.resize(static_cast<size_t>(id) + 1);
    tokens_[id] = byte_level_ ? bytes_of_symbols(token).value_or(token) : token;
  }
  if (json.at("added_tokens").is_null()) return;
  for (const JsonNode& token : json.at("added_tokens").items()) read_added(token);
}

void JsonTokenizer::read_added(const JsonNode& json) {
  AddedToken token = read_added_token(json, json.at("id").integer());
  const int32_t id = token.id;
  if (tokens_.size() <= static_cast<size_t>(id)) tokens_.resize(static_cast<size_t>(id) + 1);
  const auto known = model_.vocabulary().find(token.content);
  const bool same = known != model_.vocabulary().end() ? known->second == id : !tokens_[id].has_value();
  require(same && ids_of_added_.try_emplace(token.content, id).second,
          "{} gives `{}` the id {}, but the token or the id is taken. Replace the file.", json.where(),
          printable(token.content), id);
  tokens_[id] = token.content;
  if (!token.normalized) return raw_.add(token);
  token.content = normalizer_(token.content);
  if (!byte_level_) tokens_[id] = token.content;  // so it is decoded
  require(!token.content.empty(), "{}.content is empty once it is normalized. Replace the file.", json.where());
  normalized_.add(token);
}

std::vector<int32_t> JsonTokenizer::encode(std::string_view text) const {
  require_utf8(text, "text to tokenize");
  const std::lock_guard lock(mutex_);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  for (const AddedTokens::Part& part : raw_.split(text)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      encode_piece(text, part.begin, part.end, ids);
    }
  }
  return ids;
}

// Between two added tokens of the raw text: normalize, then look for those that are sought in normalized text.
void JsonTokenizer::encode_piece(std::string_view text, size_t begin, size_t end, std::vector<int32_t>& ids) const {
  const std::string_view raw = text.substr(begin, end - begin);
  const std::string copy = normalizer_.does_nothing() ? std::string() : normalizer_(raw);
  const std::string_view piece = normalizer_.does_nothing() ? raw : std::string_view(copy);
  for (const AddedTokens::Part& part : normalized_.split(piece)) {
    if (part.id) {
      ids.push_back(*part.id);
    } else {
      encode_words(piece.substr(part.begin, part.end - part.begin), text, begin, begin == 0 && part.begin == 0, ids);
    }
  }
}

void JsonTokenizer::encode_words(std::string_view piece, std::string_view text, size_t begin, bool first,
                                 std::vector<int32_t>& ids) const {
  std::deque<std::string> copies;
  for (const std::string_view word : pre_tokenizer_.split(piece, first, copies))
    if (const auto missing = model_.encode(word, ids)) refuse_unit(word, *missing, text, begin);
}

// Names the character and its place in the text, or, where normalization has made it, the place of the piece.
void JsonTokenizer::refuse_unit(std::string_view word, size_t at, std::string_view text, size_t begin) const {
  const auto byte = static_cast<unsigned char>(word[at]);
  while (at > 0 && (static_cast<unsigned char>(word[at]) & 0xC0) == 0x80) --at;
  const std::string_view character = word.substr(at, utf8_length(word[at]));
  const size_t found = text.find(character, begin);
  fail(
      "text to tokenize: `{}` at byte {} {}has no token in {}, nor is there a model.unk_token for it. Remove the "
      "character, or use another tokenizer.",
      printable(character), found == std::string_view::npos ? begin : found,
      byte_level_ ? fmt::format("needs byte 0x{:02x}, which ", byte) : "", file_);
}

std::string JsonTokenizer::decode(std::span<const int32_t> ids) const {
  std::vector<std::string> tokens;
  for (const int32_t id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < tokens_.size() && tokens_[id].has_value(),
            "token id {} is not in the tokenizer's vocabulary (ids 0 to {}). Check that model and tokenizer belong "
            "together.",
            id, tokens_.size() - 1);
    tokens.push_back(*tokens_[id]);
  }
  if (byte_level_) return fmt::format("{}", fmt::join(tokens, ""));
  const std::lock_guard lock(mutex_);
  return (*decoder_)(std::move(tokens));
}

std::optional<int32_t> JsonTokenizer::token_id(std::string_view token) const {
  const std::string name(token);
  if (const auto added = ids_of_added_.find(name); added != ids_of_added_.end()) return added->second;
  if (const auto found = model_.vocabulary().find(name); found != model_.vocabulary().end()) return found->second;
  return std::nullopt;
}

}  // namespace core
