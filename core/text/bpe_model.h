// Byte-pair encoding of one word (Sennrich et al. 2016, arXiv 1508.07909): start from one symbol per byte (GPT-2) or
// per character (as sentencepiece; characters without a token are then written in bytes, `<0xE2>`); while some
// neighbours are in the list of merges, replace the pair that stands first in the list (of equal ones the leftmost) by
// its token. A heap of candidate pairs over a linked list of symbols makes a word of n bytes O(n log n).
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/text/json_node.h"

namespace core {

// Token -> id of a "vocab" object.
using Vocabulary = std::unordered_map<std::string, int32_t>;

class BpeModel {
 public:
  enum class Units { bytes, characters };

  // From the member "model". Throws UserError for another type than BPE, an option that is not implemented, an id out
  // of range or given twice, or a merge that names an unknown token.
  BpeModel(const JsonNode& json, Units units);

  // Appends the ids of a word, valid UTF-8 or a part of it. A unit without a token is written in bytes under
  // `byte_fallback` if these have tokens; else it becomes `unk_token`, neighbours a single one under `fuse_unk`. Where
  // there is no `unk_token` nothing is appended: returns the unit's offset in the word. Remembers short words; not to
  // be called from two threads at once.
  [[nodiscard]] std::optional<size_t> encode(std::string_view word, std::vector<int32_t>& ids);

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  struct Merge {
    uint32_t rank;
    int32_t id;
  };
  struct Symbol {
    int32_t id;  // -1: merged into its left neighbour
    uint32_t previous, next;
  };
  struct Candidate {
    uint32_t rank, at;  // `at` is the left symbol
    int32_t left, right, merged;
    bool operator>(const Candidate& other) const { return rank != other.rank ? rank > other.rank : at > other.at; }
  };
  struct Hash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };

  std::optional<int32_t> id_of(const std::string& token) const;
  void read_vocabulary(const JsonNode& json);
  std::optional<std::vector<int32_t>> in_bytes(std::string_view symbol) const;
  void read_merges(const JsonNode& json);
  std::optional<size_t> merge(std::string_view word, std::vector<int32_t>& ids);
  std::optional<size_t> take_apart(std::string_view word);
  void append(int32_t id);
  void push(uint32_t at);

  Units units_;
  Vocabulary vocabulary_;
  std::array<std::string, 256> byte_symbols_;
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> symbol_ids_;  // of one character
  bool byte_fallback_ = false;
  std::optional<int32_t> unknown_;  // id of unk_token
  bool fuse_unknown_ = false;
  std::unordered_map<uint64_t, Merge> merges_;  // pair of ids -> merge
  bool ignore_merges_ = false;                  // a word that is a token needs no merges
  std::unordered_map<std::string, int32_t, Hash, std::equal_to<>> whole_words_;  // bytes -> id, under ignore_merges

  std::unordered_map<std::string, std::vector<int32_t>, Hash, std::equal_to<>> cache_;
  std::vector<Symbol> symbols_;  // of the word at hand
  std::vector<Candidate> heap_;  // least rank first
};

}  // namespace core
