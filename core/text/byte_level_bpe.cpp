#include "core/text/byte_level_bpe.h"

#include "core/error.h"
#include "core/io/hash.h"
#include "core/io/json_text.h"
#include "core/text/byte_alphabet.h"
#include "core/text/post_processor.h"
#include "core/text/utf8.h"

namespace core {
namespace {

// Whether the normalizer is NFC; none is the other that is implemented. NFC twice is NFC.
bool read_normalizer(const JsonNode& json) {
  if (json.is_null()) return false;
  if (json.type() == "NFC") return true;
  if (json.type() != "Sequence") json.refuse_type({"NFC", "Sequence"});
  bool nfc = false;
  for (const JsonNode& part : json.at("normalizers").items()) nfc |= read_normalizer(part);
  return nfc;
}

void check_decoder(const JsonNode& json) {
  require(!json.is_null(), "{} is missing. A byte-level tokenizer needs ByteLevel.", json.where());
  if (json.type() != "ByteLevel") json.refuse_type({"ByteLevel"});
}

}  // namespace

ByteLevelBpe::ByteLevelBpe(std::string_view text, const std::string& file)
    : ByteLevelBpe(JsonNode(parse_json(text, {file, "the text", "Replace the file."}), file, ""), text) {}

ByteLevelBpe::ByteLevelBpe(const JsonNode& json, std::string_view text)
    : file_(json.file()),
      nfc_(read_normalizer(json.at("normalizer"))),
      pre_tokenizer_(json.at("pre_tokenizer")),
      model_(json.at("model")) {
  hash_ = hash_text(text);  // `truncation` and `padding` are what some call has left there; no text asks for them
  special_ = begins_as(json.at("post_processor"));
  check_decoder(json.at("decoder"));
  for (const auto& [token, id] : model_.vocabulary()) {
    if (bytes_.size() <= static_cast<size_t>(id)) bytes_.resize(static_cast<size_t>(id) + 1);
    bytes_[id] = bytes_of_symbols(token).value_or(token);
  }
  if (json.at("added_tokens").is_null()) return;
  for (const JsonNode& token : json.at("added_tokens").items()) read_added_token(token);
}

void ByteLevelBpe::read_added_token(const JsonNode& json) {
  for (const char* option : {"single_word", "lstrip", "rstrip"}) json.require_default(option, {false});
  const std::string content = json.at("content").text();
  const int64_t id = json.at("id").integer();
  require(!content.empty(), "{}.content is empty. Replace the file.", json.where());
  require(id >= 0 && id < (1 << 24), "{}.id {} is out of range. Replace the file.", json.where(), id);
  if (bytes_.size() <= static_cast<size_t>(id)) bytes_.resize(static_cast<size_t>(id) + 1);

  const auto known = model_.vocabulary().find(content);
  const bool same = known != model_.vocabulary().end() ? known->second == id : !bytes_[id].has_value();
  require(same && ids_of_added_.try_emplace(content, static_cast<int32_t>(id)).second,
          "{} gives `{}` the id {}, but the token or the id is taken. Replace the file.", json.where(),
          printable(content), id);
  bytes_[id] = content;
  const bool normalized = json.at("normalized").boolean(!json.at("special").boolean(false));
  if (normalized)
    normalized_.add(nfc_ ? nfc(content) : content, static_cast<int32_t>(id));
  else
    raw_.add(content, static_cast<int32_t>(id));
}

std::vector<int32_t> ByteLevelBpe::encode(std::string_view text) const {
  require_utf8(text, "text to tokenize");
  const std::lock_guard lock(mutex_);
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3);
  size_t done = 0;
  while (const auto match = raw_.find(text, done)) {
    encode_piece(text, done, match->begin, ids);
    ids.push_back(match->id);
    done = match->end;
  }
  encode_piece(text, done, text.size(), ids);
  return ids;
}

// Between two added tokens of the raw text: normalize, then look for those that are sought in normalized text.
void ByteLevelBpe::encode_piece(std::string_view text, size_t begin, size_t end, std::vector<int32_t>& ids) const {
  const std::string_view raw = text.substr(begin, end - begin);
  const std::string copy = nfc_ ? nfc(raw) : std::string();
  const std::string_view piece = nfc_ ? std::string_view(copy) : raw;
  size_t done = 0;
  while (const auto match = normalized_.find(piece, done)) {
    encode_words(piece.substr(done, match->begin - done), text, begin, ids);
    ids.push_back(match->id);
    done = match->end;
  }
  encode_words(piece.substr(done), text, begin, ids);
}

void ByteLevelBpe::encode_words(std::string_view piece, std::string_view text, size_t begin,
                                std::vector<int32_t>& ids) const {
  std::deque<std::string> copies;
  for (const std::string_view word : pre_tokenizer_.split(piece, copies))
    if (const auto missing = model_.encode(word, ids)) refuse_byte(word, *missing, text, begin);
}

// Names the character and its place in the text, or, where normalization has made it, the place of the piece.
void ByteLevelBpe::refuse_byte(std::string_view word, size_t at, std::string_view text, size_t begin) const {
  const auto byte = static_cast<unsigned char>(word[at]);
  while (at > 0 && (static_cast<unsigned char>(word[at]) & 0xC0) == 0x80) --at;
  const std::string_view character = word.substr(at, utf8_length(word[at]));
  const size_t found = text.find(character, begin);
  fail(
      "text to tokenize: `{}` at byte {} needs byte 0x{:02x}, which has no token in {}, nor is there a model.unk_token "
      "for it. Remove the character, or use another tokenizer.",
      printable(character), found == std::string_view::npos ? begin : found, byte, file_);
}

std::string ByteLevelBpe::decode(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) {
    require(id >= 0 && static_cast<size_t>(id) < bytes_.size() && bytes_[id].has_value(),
            "token id {} is not in the tokenizer's vocabulary (ids 0 to {}). Check that model and tokenizer belong "
            "together.",
            id, bytes_.size() - 1);
    text += *bytes_[id];
  }
  return text;
}

std::optional<int32_t> ByteLevelBpe::token_id(std::string_view token) const {
  const std::string name(token);
  if (const auto added = ids_of_added_.find(name); added != ids_of_added_.end()) return added->second;
  if (const auto found = model_.vocabulary().find(name); found != model_.vocabulary().end()) return found->second;
  return std::nullopt;
}

}  // namespace core
