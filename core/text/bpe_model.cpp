#include "core/text/bpe_model.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/io/json_text.h"
#include "core/text/byte_alphabet.h"
#include "core/text/utf8.h"

namespace core {
namespace {

constexpr int64_t kMaxId = (1 << 24) - 1;  // far above any vocabulary: a larger id is a broken file
constexpr size_t kCachedWords = 1 << 16;   // then the cache starts anew
constexpr size_t kLongestCachedWord = 64;  // bytes
constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();

uint64_t pair_key(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

// "a b" (old files) or ["a", "b"].
std::pair<std::string, std::string> parts_of_merge(const nlohmann::json& merge, const JsonNode& json, size_t index) {
  if (merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string())
    return {merge[0].get<std::string>(), merge[1].get<std::string>()};
  if (merge.is_string()) {
    const auto& text = merge.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space != std::string::npos && text.find(' ', space + 1) == std::string::npos)
      return {text.substr(0, space), text.substr(space + 1)};
  }
  fail("{}[{}] is {}, a pair of tokens is expected. Replace the file.", json.where(), index, printable(merge.dump()));
}

}  // namespace

BpeModel::BpeModel(const JsonNode& json, Units units) : units_(units) {
  // Files older than the member "type" hold BPE when they hold merges.
  const bool untyped = json.at("type").is_null() && !json.at("merges").is_null();
  if (!untyped && json.type() != "BPE") json.refuse_type({"BPE"});
  json.require_default("dropout", {0});
  json.require_default("continuing_subword_prefix", {""});
  json.require_default("end_of_word_suffix", {""});
  ignore_merges_ = json.at("ignore_merges").boolean(false);
  fuse_unknown_ = json.at("fuse_unk").boolean(false);
  byte_fallback_ = json.at("byte_fallback").boolean(false);
  read_vocabulary(json.at("vocab"));
  if (const JsonNode token = json.at("unk_token"); !token.is_null()) unknown_ = id_of(token.text());
  read_merges(json.at("merges"));
}

void BpeModel::read_vocabulary(const JsonNode& json) {
  require(json.value().is_object(), "{} is not an object of tokens and ids. Replace the file.", json.where());
  std::unordered_map<int32_t, std::string_view> owners;
  for (const auto& [token, value] : json.value().items()) {
    const int64_t id = value.is_number_integer() ? value.get<int64_t>() : -1;  // beyond int64: negative
    require(id >= 0 && id <= kMaxId,
            "{} gives token `{}` the id {}, which is not an integer from 0 to {}. Replace the file.", json.where(),
            printable(token), printable(value.dump()), kMaxId);
    const auto [owner, is_new] = owners.try_emplace(static_cast<int32_t>(id), token);
    require(is_new, "{} gives the id {} to `{}` and to `{}`. Replace the file.", json.where(), id,
            printable(owner->second), printable(token));
    vocabulary_.emplace(token, static_cast<int32_t>(id));
    if (!token.empty() && token.size() == utf8_length(token[0])) symbol_ids_.emplace(token, static_cast<int32_t>(id));
    if (!ignore_merges_) continue;
    const std::optional<std::string> word = units_ == Units::bytes ? bytes_of_symbols(token) : token;
    if (word) whole_words_.emplace(*word, static_cast<int32_t>(id));
  }
  for (int byte = 0; byte < 256; ++byte) byte_symbols_[byte] = byte_symbol(static_cast<uint8_t>(byte));
}

std::optional<int32_t> BpeModel::id_of(const std::string& token) const {
  const auto found = vocabulary_.find(token);
  return found == vocabulary_.end() ? std::nullopt : std::optional(found->second);
}

void BpeModel::read_merges(const JsonNode& json) {
  require(json.value().is_array(), "{} is not a list. Replace the file.", json.where());
  const auto known_id = [&](const std::string& token, size_t index) {
    const std::optional<int32_t> id = id_of(token);
    require(id.has_value(), "{}[{}] names `{}`, which is not in the vocabulary. Replace the file.", json.where(), index,
            printable(token));
    return *id;
  };
  uint32_t rank = 0;
  for (size_t i = 0; i < json.value().size(); ++i) {
    const nlohmann::json& merge = json.value()[i];
    if (merge.is_string() && merge.get_ref<const std::string&>().starts_with("#version")) continue;
    const auto [left, right] = parts_of_merge(merge, json, i);
    const int32_t left_id = known_id(left, i), right_id = known_id(right, i), merged = known_id(left + right, i);
    merges_[pair_key(left_id, right_id)] = {rank++, merged};
  }
}

std::optional<size_t> BpeModel::encode(std::string_view word, std::vector<int32_t>& ids) {
  if (ignore_merges_) {
    if (const auto whole = whole_words_.find(word); whole != whole_words_.end()) {
      ids.push_back(whole->second);
      return std::nullopt;
    }
  }
  if (word.size() > kLongestCachedWord) return merge(word, ids);
  if (const auto cached = cache_.find(word); cached != cache_.end()) {
    ids.insert(ids.end(), cached->second.begin(), cached->second.end());
    return std::nullopt;
  }
  const size_t before = ids.size();
  if (const auto missing = merge(word, ids)) return missing;
  if (cache_.size() >= kCachedWords) cache_.clear();
  cache_.emplace(word, std::vector<int32_t>(ids.begin() + static_cast<std::ptrdiff_t>(before), ids.end()));
  return std::nullopt;
}

void BpeModel::append(int32_t id) {
  const auto at = static_cast<uint32_t>(symbols_.size());
  if (at > 0) symbols_[at - 1].next = at;
  symbols_.push_back({id, at == 0 ? kNone : at - 1, kNone});
}

// The tokens of the bytes of a symbol, `<0xE2>`; none: one of them is missing.
std::optional<std::vector<int32_t>> BpeModel::in_bytes(std::string_view symbol) const {
  std::vector<int32_t> ids;
  for (const char byte : symbol) {
    const auto id = id_of(fmt::format("<0x{:02X}>", static_cast<unsigned char>(byte)));
    if (!id) return std::nullopt;
    ids.push_back(*id);
  }
  return ids;
}

// Makes the symbols of a word; returns the offset of a unit that has neither a token nor unk_token.
std::optional<size_t> BpeModel::take_apart(std::string_view word) {
  symbols_.clear();
  bool unknown = false;  // has not been appended yet, because more of it may follow
  for (size_t at = 0, size; at < word.size(); at += size) {
    size = units_ == Units::bytes ? 1 : utf8_length(word[at]);
    const std::string_view symbol = units_ == Units::bytes
                                        ? std::string_view(byte_symbols_[static_cast<unsigned char>(word[at])])
                                        : word.substr(at, size);
    if (const auto found = symbol_ids_.find(symbol); found != symbol_ids_.end()) {
      if (std::exchange(unknown, false)) append(*unknown_);
      append(found->second);
      continue;
    }
    if (byte_fallback_) {
      if (const auto ids = in_bytes(symbol)) {
        for (const int32_t id : *ids) append(id);
        continue;
      }
    }
    if (!unknown_) return at;
    if (std::exchange(unknown, true) && !fuse_unknown_) append(*unknown_);
  }
  if (unknown) append(*unknown_);
  return std::nullopt;
}

// Puts the pair of symbol `at` and its right neighbour into the heap, if it is a merge.
void BpeModel::push(uint32_t at) {
  const uint32_t next = symbols_[at].next;
  if (next == kNone) return;
  const int32_t left = symbols_[at].id, right = symbols_[next].id;
  const auto found = merges_.find(pair_key(left, right));
  if (found == merges_.end()) return;
  heap_.push_back({found->second.rank, at, left, right, found->second.id});
  std::push_heap(heap_.begin(), heap_.end(), std::greater<>());
}

std::optional<size_t> BpeModel::merge(std::string_view word, std::vector<int32_t>& ids) {
  require(word.size() < kNone, "text: a word of {} bytes is too long. Split the text.", word.size());
  if (const auto missing = take_apart(word)) return missing;
  const auto size = static_cast<uint32_t>(symbols_.size());
  heap_.clear();
  for (uint32_t i = 0; i < size; ++i) push(i);
  while (!heap_.empty()) {
    std::pop_heap(heap_.begin(), heap_.end(), std::greater<>());
    const Candidate best = heap_.back();
    heap_.pop_back();
    Symbol& left = symbols_[best.at];
    if (left.id != best.left || left.next == kNone || symbols_[left.next].id != best.right) continue;  // outdated
    Symbol& right = symbols_[left.next];
    left.id = best.merged;
    right.id = -1;
    left.next = right.next;
    if (left.next != kNone) symbols_[left.next].previous = best.at;
    if (left.previous != kNone) push(left.previous);
    push(best.at);
  }
  for (uint32_t i = 0; i != kNone && i < size; i = symbols_[i].next) ids.push_back(symbols_[i].id);
  return std::nullopt;
}

}  // namespace core
