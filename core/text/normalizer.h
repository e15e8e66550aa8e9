// The normalizer of tokenizer.json: what happens to a text between added tokens before it is cut into words. NFC,
// Prepend and Replace (the two by which files of `tokenizers` write spaces as sentencepiece does), Sequence.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/json_node.h"

namespace core {

class Normalizer {
 public:
  // From the member "normalizer"; null: nothing happens. Throws UserError naming a type that is not implemented.
  explicit Normalizer(const JsonNode& json);

  bool does_nothing() const { return steps_.empty(); }
  // Of a valid UTF-8 text. Not to be called from two threads at once.
  std::string operator()(std::string_view text) const;

 private:
  void add(const JsonNode& json);

  std::vector<std::function<std::string(std::string_view)>> steps_;
};

}  // namespace core
