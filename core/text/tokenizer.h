// Text to token ids and back. Two kinds exist: BPE of bytes or characters (tokenizer.json) and sentencepiece
// (tokenizer.model).
// A tokenizer never adds BOS or EOS by itself: whether a text starts with BOS is a matter of the measuring protocol
// (core/text/windows.h), so a model's files are only asked which ids these are and whether `auto` means BOS. EOS is
// never put behind a text, not even where the files say so (add_eos_token, a template that ends in EOS) and
// `tokenizer(text)` of transformers would: a corpus is one stream of tokens, and a prompt is to be continued.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// Of everything between a corpus file and its token ids: joining, normalizing, splitting, merging. Bumped by hand when
// ids change, so that remembered ones are not used.
inline constexpr int kTokensVersion = 1;

// What the files of a model say about BOS and EOS; which of them counts: core/text/load_tokenizer.h.
struct SpecialTokens {
  std::optional<int32_t> bos_id;
  std::vector<int32_t> eos_ids;  // each ends a text that the model writes
  bool adds_bos = false;         // a text begins with BOS
};

struct ModelTexts;  // core/text/model_texts.h

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  // Ids of a UTF-8 text, without BOS and EOS. Added tokens (special or not) written out in the text become their ids;
  // where a sentencepiece model's files list none, control symbols in the text are plain text, as for its library.
  // Throws UserError with the byte offset when the text is not UTF-8, and, of tokenizer.json, when a character has
  // neither a token nor unk_token. May be called from several threads.
  virtual std::vector<int32_t> encode(std::string_view text) const = 0;

  // The text of the ids, special tokens written out (where a sentencepiece model's files list no added tokens, control
  // symbols vanish, as in its library). Byte-level BPE returns the exact bytes, which may end inside a UTF-8 character;
  // the others write U+FFFD for bytes that are no character. Throws UserError on unknown ids.
  virtual std::string decode(std::span<const int32_t> ids) const = 0;

  // Largest id + 1, added tokens included. The model's embedding may have more rows (padding).
  virtual int64_t vocabulary_size() const = 0;

  // Id of a token given as it is written in tokenizer_config.json, e.g. `<|endoftext|>`.
  virtual std::optional<int32_t> token_id(std::string_view token) const = 0;

  std::optional<int32_t> bos_id() const { return special_.bos_id; }
  const std::vector<int32_t>& eos_ids() const { return special_.eos_ids; }
  bool ends_text(int64_t id) const { return std::ranges::find(special_.eos_ids, id) != special_.eos_ids.end(); }
  bool adds_bos() const { return special_.adds_bos; }

  // Hash of the tokenizer's file and of what is added to it: equal hashes, equal ids for every text.
  std::string hash() const { return hash_; }

 protected:
  SpecialTokens
      special_;       // set by load_tokenizer (core/text/load_tokenizer.h), except what the tokenizer's own file says
  std::string hash_;  // set by the constructor

  friend std::unique_ptr<Tokenizer> load_tokenizer(const ModelTexts& texts);
};

}  // namespace core
