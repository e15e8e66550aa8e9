// Tokens that were added to a vocabulary (`<|endoftext|>`): found in the text before anything else happens to it. The
// leftmost occurrence wins, and of those that begin there the longest; then the token's flags are looked at, as in
// `tokenizers`. A trie over bytes, walked from every position at which a token can begin.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/text/json_node.h"

namespace core {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool lstrip = false, rstrip = false;  // it swallows the white space in front of it, behind it
  bool single_word = false;             // only where no word character is next to it
  bool normalized = false;              // sought in the normalized text
};

// From {"content": ..., "rstrip": ...}, a member of added_tokens and of added_tokens_decoder. Throws UserError naming
// what is wrong.
AddedToken read_added_token(const JsonNode& json, int64_t id);

class AddedTokens {
 public:
  struct Part {
    size_t begin = 0, end = 0;  // bytes of the text
    std::optional<int32_t> id;  // none: text between added tokens
  };

  // The content must not be empty; the first token of a content stays.
  void add(const AddedToken& token);

  // The parts of a valid UTF-8 text, in order, none empty.
  std::vector<Part> split(std::string_view text) const;

 private:
  struct Match {
    size_t begin, end;
    const AddedToken* token;
  };
  std::optional<Match> find(std::string_view text, size_t from) const;
  std::optional<Match> longest_at(std::string_view text, size_t begin) const;

  static uint64_t edge(uint32_t node, char byte) { return (uint64_t{node} << 8) | static_cast<unsigned char>(byte); }

  std::array<bool, 256> can_begin_{};
  std::unordered_map<uint64_t, uint32_t> children_;  // edge -> node; node 0 is the root
  std::unordered_map<uint32_t, AddedToken> tokens_;  // node -> the token that ends there
  uint32_t nodes_ = 1;
};

}  // namespace core
