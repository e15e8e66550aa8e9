// tokenizer.model through the sentencepiece library (Kudo and Richardson 2018, arXiv 1808.06226), as it encodes by
// default: the model's own normalization, a space put in front where the model says so, unknown characters as bytes.
// Where a model's files list added tokens, these are taken out of the text first, and text is decoded as transformers 5
// does: control symbols are then tokens in a text and written out.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/text/added_tokens.h"
#include "core/text/decoder.h"
#include "core/text/tokenizer.h"

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace core {

struct SentencePieceOptions {
  // Where the library's space in front is wanted. The beginning of a text has it always, but under `never`. A piece
  // behind an added token: library: always; always: unless it begins with a space; first: never.
  enum class Prefix { library, always, first, never };

  std::vector<AddedToken> added;  // none: the library alone
  Prefix prefix = Prefix::library;
};

class SentencePieceTokenizer : public Tokenizer {
 public:
  // `model` is the content of tokenizer.model, `file` its name in messages.
  SentencePieceTokenizer(std::string_view model, const std::string& file, const SentencePieceOptions& options = {});
  ~SentencePieceTokenizer() override;

  std::vector<int32_t> encode(std::string_view text) const override;
  std::string decode(std::span<const int32_t> ids) const override;
  int64_t vocabulary_size() const override;
  std::optional<int32_t> token_id(std::string_view token) const override;

 private:
  void add(const AddedToken& token);
  void encode_piece(std::string_view piece, bool begins, std::vector<int32_t>& ids) const;
  std::string name(int32_t id) const;

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  std::unique_ptr<sentencepiece::SentencePieceProcessor> without_prefix_;  // the same model; null: not needed
  SentencePieceOptions::Prefix prefix_;
  AddedTokens raw_, normalized_;
  std::unordered_map<int32_t, std::string> names_;  // of added tokens
  std::unordered_map<std::string, int32_t> ids_;    // of added tokens
  std::optional<Decoder> decoder_;                  // none: the library's
  int64_t size_ = 0;
};

}  // namespace core
