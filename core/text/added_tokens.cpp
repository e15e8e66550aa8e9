#include "core/text/added_tokens.h"

#include <algorithm>

#include "core/text/utf8.h"

namespace core {
namespace {

size_t begin_of_white_space_at_end(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    size_t character = begin - 1;
    while (character > 0 && (static_cast<unsigned char>(text[character]) & 0xC0) == 0x80) --character;
    if (!is_white_space(first_code_point(text.substr(character)))) break;
    begin = character;
  }
  return begin;
}

size_t white_space_at_start(std::string_view text) {
  size_t end = 0;
  while (end < text.size() && is_white_space(first_code_point(text.substr(end)))) end += utf8_length(text[end]);
  return end;
}

bool stands_alone(std::string_view before, std::string_view behind) {
  return (before.empty() || !is_word_character(last_code_point(before))) &&
         (behind.empty() || !is_word_character(first_code_point(behind)));
}

}  // namespace

AddedToken read_added_token(const JsonNode& json, int64_t id) {
  AddedToken token{.content = json.at("content").text(),
                   .id = static_cast<int32_t>(id),
                   .lstrip = json.at("lstrip").boolean(false),
                   .rstrip = json.at("rstrip").boolean(false),
                   .single_word = json.at("single_word").boolean(false),
                   .normalized = json.at("normalized").boolean(!json.at("special").boolean(false))};
  require(!token.content.empty(), "{}.content is empty. Replace the file.", json.where());
  require(!first_invalid_utf8(token.content), "{}.content is not valid UTF-8. Replace the file.", json.where());
  require(id >= 0 && id < (1 << 24), "{}.id {} is out of range. Replace the file.", json.where(), id);
  return token;
}

void AddedTokens::add(const AddedToken& token) {
  can_begin_[static_cast<unsigned char>(token.content.front())] = true;
  uint32_t node = 0;
  for (const char byte : token.content) {
    const auto [child, is_new] = children_.try_emplace(edge(node, byte), nodes_);
    if (is_new) ++nodes_;
    node = child->second;
  }
  tokens_.try_emplace(node, token);
}

// The search goes on behind a match as it was found, before anything is stripped, and behind one that is no word of its
// own.
std::vector<AddedTokens::Part> AddedTokens::split(std::string_view text) const {
  std::vector<Part> parts;
  size_t done = 0, from = 0;
  while (const std::optional<Match> match = find(text, from)) {
    auto [begin, end, token] = *match;
    from = end;
    if (token->single_word && !stands_alone(text.substr(0, begin), text.substr(end))) continue;
    if (token->lstrip) begin = std::max(done, begin_of_white_space_at_end(text.substr(0, begin)));
    if (token->rstrip) end += white_space_at_start(text.substr(end));
    if (done < begin) parts.push_back({done, begin, std::nullopt});
    parts.push_back({begin, end, token->id});
    done = end;
  }
  if (done < text.size()) parts.push_back({done, text.size(), std::nullopt});
  return parts;
}

std::optional<AddedTokens::Match> AddedTokens::find(std::string_view text, size_t from) const {
  for (size_t begin = from; begin < text.size(); ++begin) {
    if (!can_begin_[static_cast<unsigned char>(text[begin])]) continue;
    if (const std::optional<Match> match = longest_at(text, begin)) return match;
  }
  return std::nullopt;
}

std::optional<AddedTokens::Match> AddedTokens::longest_at(std::string_view text, size_t begin) const {
  std::optional<Match> best;
  uint32_t node = 0;
  for (size_t end = begin; end < text.size();) {
    const auto child = children_.find(edge(node, text[end]));
    if (child == children_.end()) break;
    node = child->second;
    ++end;
    if (const auto token = tokens_.find(node); token != tokens_.end()) best = Match{begin, end, &token->second};
  }
  return best;
}

}  // namespace core
