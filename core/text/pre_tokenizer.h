// The pre-tokenizer of tokenizer.json: it cuts a text into words, and BPE merges inside a word only. Stages run one
// after the other, each on the pieces that the one before it left: Split, Digits, ByteLevel, and Sequence of these.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/json_node.h"
#include "core/text/pattern.h"

namespace core {

class PreTokenizer {
 public:
  // From the member "pre_tokenizer". Throws UserError naming every type and option that is not implemented.
  explicit PreTokenizer(const JsonNode& json);

  // The words of a valid UTF-8 text, in order, none empty. They are views into the text, or into `copies` where a space
  // had to be put in front. Not to be called from two threads at once.
  std::vector<std::string_view> split(std::string_view text, std::deque<std::string>& copies) const;

 private:
  struct Stage {
    bool prefix_space = false;       // put a space before a piece that does not begin with one
    std::optional<Pattern> pattern;  // then cut
  };

  void add(const JsonNode& json);
  void add_split(const JsonNode& json);
  void add_byte_level(const JsonNode& json);

  std::vector<Stage> stages_;
  bool byte_level_ = false;  // ByteLevel has been added: it must be the last stage
};

}  // namespace core
