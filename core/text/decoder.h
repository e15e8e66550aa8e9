// The decoder of tokenizer.json for vocabularies of characters: tokens to text. Each step maps a list of texts to
// another, and in the end they are joined: Replace, ByteFallback, Fuse, Strip, Metaspace, Sequence.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/text/json_node.h"

namespace core {

class Decoder {
 public:
  // From the member "decoder"; null: tokens are joined with spaces, as in `tokenizers`. Throws UserError naming a type
  // that is not implemented.
  explicit Decoder(const JsonNode& json);
  // As transformers decodes a Llama model's tokens; without `strip` the space in front of the text stays.
  static Decoder of_sentencepiece(bool strip);

  std::string operator()(std::vector<std::string> tokens) const;

 private:
  using Texts = std::vector<std::string>;

  Decoder() = default;
  void add(const JsonNode& json);

  std::vector<std::function<Texts(Texts)>> steps_;
  std::string separator_;
};

}  // namespace core
