// What the files beside a tokenizer say about it, applied as transformers 5 does: added_tokens_decoder,
// tokenizer_class, legacy and add_prefix_space of tokenizer_config.json; where there is no added_tokens_decoder,
// added_tokens.json and special_tokens_map.json.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "core/text/model_texts.h"
#include "core/text/sentencepiece_tokenizer.h"

namespace core {

class TokenizerSettings {
 public:
  // Reads the files that are there. Throws UserError naming a broken one.
  explicit TokenizerSettings(const ModelTexts& texts);

  // The text of a tokenizer.json with the tokens of added_tokens_decoder, whose flags count. Under LlamaTokenizer a
  // vocabulary of characters is used as that class does, whatever the file says of spaces and decoding: a space in
  // front of the text alone, or of every piece between added tokens (legacy), or of none (add_prefix_space false).
  std::string applied_to(const std::string& tokenizer_json) const;

  // For a tokenizer.model. Where a tokenizer.json stands beside it, its text; it says where spaces are put in front.
  SentencePieceOptions for_sentencepiece(const std::string& tokenizer_json) const;

 private:
  bool is_llama_tokenizer() const;
  std::string prepend_scheme() const;
  std::vector<AddedToken> added_tokens() const;
  std::vector<std::string> special_tokens() const;

  std::string tokenizer_config_, added_tokens_;  // names of files, for messages
  nlohmann::json config_, added_, special_map_;  // objects; empty where the file is missing
};

}  // namespace core
