// The text of a growing list of tokens, as soon as it is certain. A token may end inside a UTF-8 character, and
// sentencepiece decodes a token together with its neighbours, so that tokens cannot be decoded one by one.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/tokenizer.h"

namespace core {

class TextStream {
 public:
  // before: tokens whose text is known, the last of a prompt for instance; what comes continues them.
  TextStream(const Tokenizer& tokenizer, const std::vector<int32_t>& before);

  // The text that this token makes certain: complete UTF-8 characters, or nothing yet. Bytes that are no UTF-8 are
  // U+FFFD.
  std::string push(int32_t id);
  // What was held back; a character that never became complete is U+FFFD.
  std::string finish();

 private:
  void forget(std::string_view text);

  const Tokenizer& tokenizer_;
  std::vector<int32_t> ids_;  // the last ones
  size_t sent_ = 0;           // bytes of their text that are out already
};

// Bytes of `text` before a UTF-8 character that has begun at its end and is not complete; all of it if there is none.
size_t complete_utf8(std::string_view text);

}  // namespace core
