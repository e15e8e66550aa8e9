// The pre-tokenizer of tokenizer.json: it cuts a text into words, and BPE merges inside a word only. Stages run one
// after the other, each on the pieces that the one before it left: Split, Digits, Metaspace, ByteLevel, and Sequence of
// these. With ByteLevel, the last stage, words are bytes to the model, else characters.
#pragma once

#include <deque>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/json_node.h"
#include "core/text/pattern.h"

namespace core {

class PreTokenizer {
 public:
  // From the member "pre_tokenizer"; null: the text is one word. Throws UserError naming every type and option that is
  // not implemented.
  explicit PreTokenizer(const JsonNode& json);

  bool byte_level() const { return byte_level_; }

  // The words of a valid UTF-8 text, in order, none empty. They are views into the text, or into `copies` where they
  // differ from it. begins: the text stands at the very beginning, no added token before it. Not to be called from two
  // threads at once.
  std::vector<std::string_view> split(std::string_view text, bool begins, std::deque<std::string>& copies) const;

 private:
  struct Piece {
    std::string_view text;
    bool begins;
  };
  using Pieces = std::vector<Piece>;
  using Copies = std::deque<std::string>;

  void add(const JsonNode& json);
  void add_split(const JsonNode& json);
  void add_byte_level(const JsonNode& json);
  void add_metaspace(const JsonNode& json);
  // behavior: what becomes of the matches, as in Split.
  void cut(Pattern pattern, const std::string& behavior, bool invert = false);

  std::vector<std::function<Pieces(const Pieces&, Copies&)>> stages_;
  bool byte_level_ = false;
};

}  // namespace core
