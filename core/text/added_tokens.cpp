#include "core/text/added_tokens.h"

namespace core {

void AddedTokens::add(std::string_view content, int32_t id) {
  can_begin_[static_cast<unsigned char>(content.front())] = true;
  uint32_t node = 0;
  for (const char byte : content) {
    const auto [child, is_new] = children_.try_emplace(edge(node, byte), nodes_);
    if (is_new) ++nodes_;
    node = child->second;
  }
  ids_.try_emplace(node, id);
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
    if (const auto id = ids_.find(node); id != ids_.end()) best = Match{begin, end, id->second};
  }
  return best;
}

}  // namespace core
