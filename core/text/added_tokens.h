// Tokens that were added to a vocabulary (`<|endoftext|>`): found in the text before anything else happens to it. The
// leftmost occurrence wins, and of those that begin there the longest. A trie over bytes, walked from every position at
// which a token can begin.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

namespace core {

class AddedTokens {
 public:
  struct Match {
    size_t begin = 0, end = 0;  // bytes of the text
    int32_t id = 0;
  };

  // `content` must not be empty; the first id of a content stays.
  void add(std::string_view content, int32_t id);
  std::optional<Match> find(std::string_view text, size_t from) const;

 private:
  std::optional<Match> longest_at(std::string_view text, size_t begin) const;

  static uint64_t edge(uint32_t node, char byte) { return (uint64_t{node} << 8) | static_cast<unsigned char>(byte); }

  std::array<bool, 256> can_begin_{};
  std::unordered_map<uint64_t, uint32_t> children_;  // edge -> node; node 0 is the root
  std::unordered_map<uint32_t, int32_t> ids_;        // node -> id of the token that ends there
  uint32_t nodes_ = 1;
};

}  // namespace core
