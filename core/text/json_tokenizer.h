// tokenizer.json with BPE, of bytes (GPT-2, Qwen, Llama 3, DeepSeek) or of characters with bytes as a fallback (Llama 2
// and what else was made from sentencepiece): added tokens are taken out of the text, what lies between them is
// normalized, cut into words, and each word is merged from its bytes or characters. Ids and text are those of Hugging
// Face's `tokenizers`; every part of its format that we lack is refused by name when the file is read. `truncation` and
// `padding` are what a call has left in the file, and change nothing here, as in transformers unless asked for.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/text/added_tokens.h"
#include "core/text/bpe_model.h"
#include "core/text/decoder.h"
#include "core/text/normalizer.h"
#include "core/text/pre_tokenizer.h"
#include "core/text/tokenizer.h"

namespace core {

class JsonTokenizer : public Tokenizer {
 public:
  // `json` is the text of tokenizer.json, `file` its name in messages.
  JsonTokenizer(std::string_view json, const std::string& file);

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int64_t vocabulary_size() const override { return static_cast<int64_t>(tokens_.size()); }
  std::optional<int32_t> token_id(std::string_view token) const override;

 private:
  JsonTokenizer(const JsonNode& json, std::string_view text);
  void read_added(const JsonNode& json);
  // Bytes begin … end of the text, which hold none of raw_.
  void encode_piece(std::string_view text, size_t begin, size_t end, std::vector<int32_t>& ids) const;
  // piece: normalized text from byte `begin` on, without added tokens. first: it is the beginning of the text.
  void encode_words(std::string_view piece, std::string_view text, size_t begin, bool first,
                    std::vector<int32_t>& ids) const;
  [[noreturn]] void refuse_unit(std::string_view word, size_t at, std::string_view text, size_t begin) const;

  std::string file_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  bool byte_level_;
  mutable BpeModel model_;          // with its cache
  mutable std::mutex mutex_;        // of the cache and of the patterns' match buffers
  AddedTokens raw_;                 // found in the text as it is
  AddedTokens normalized_;          // found in the normalized text
  std::optional<Decoder> decoder_;  // of characters
  std::unordered_map<std::string, int32_t> ids_of_added_;
  std::vector<std::optional<std::string>> tokens_;  // of each id, as bytes where byte_level_; none: no token has it
};

}  // namespace core
