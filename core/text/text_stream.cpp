#include "core/text/text_stream.h"

#include <algorithm>

#include "core/text/utf8.h"

namespace core {

namespace {

constexpr size_t kBefore = 8;    // tokens that the next one may depend on, and as many again where a character is cut
constexpr size_t kLongest = 64;  // tokens that are decoded at once
constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What is certain: no character that may still grow, nor the sign by which sentencepiece stands for one.
size_t certain(std::string_view text) {
  size_t size = complete_utf8(text);
  while (text.substr(0, size).ends_with(kReplacement)) size -= kReplacement.size();
  return size;
}

// A broken model writes bytes that are no text: each becomes U+FFFD.
std::string mended(std::string_view text) {
  std::string whole;
  for (auto broken = first_invalid_utf8(text); broken; broken = first_invalid_utf8(text)) {
    whole.append(text.substr(0, *broken)).append(kReplacement);
    text.remove_prefix(*broken + 1);
  }
  return whole.append(text);
}

// How many of the last tokens are kept: their text must end the whole text, which it does not where they begin inside a
// character whose bytes are tokens. All of them if there is no such number.
size_t kept(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, std::string_view text) {
  for (size_t count = kBefore; count < std::min(2 * kBefore, ids.size()); ++count)
    if (text.ends_with(tokenizer.decode(std::span(ids).last(count)))) return count;
  return ids.size();
}

}  // namespace

size_t complete_utf8(std::string_view text) {
  for (size_t back = 1; back <= std::min<size_t>(3, text.size()); ++back) {
    const auto byte = static_cast<unsigned char>(text[text.size() - back]);
    if (byte < 0x80) break;                                                                            // ASCII
    if (byte >= 0xC0) return text.size() - (utf8_length(text[text.size() - back]) > back ? back : 0);  // it begins here
  }
  return text.size();
}

TextStream::TextStream(const Tokenizer& tokenizer, const std::vector<int32_t>& before)
    : tokenizer_(tokenizer), ids_(before) {
  forget(tokenizer_.decode(ids_));
}

// Drops the tokens that the next one does not depend on; `text` is that of all of them, and it is out.
void TextStream::forget(std::string_view text) {
  ids_.erase(ids_.begin(), ids_.end() - static_cast<std::ptrdiff_t>(kept(tokenizer_, ids_, text)));
  sent_ = tokenizer_.decode(ids_).size();
}

std::string TextStream::push(int32_t id) {
  ids_.push_back(id);
  const std::string text = tokenizer_.decode(ids_);
  const size_t end = std::max(sent_, certain(text));
  std::string fresh = mended(std::string_view(text).substr(std::min(sent_, text.size()), end - sent_));
  sent_ = end;
  if (ids_.size() >= kLongest && sent_ == text.size()) forget(text);
  return fresh;
}

std::string TextStream::finish() {
  const std::string text = tokenizer_.decode(ids_);
  const std::string rest = text.substr(std::min(sent_, text.size()));
  sent_ = text.size();
  const size_t whole = complete_utf8(rest);
  return mended(std::string_view(rest).substr(0, whole)) + std::string(whole < rest.size() ? kReplacement : "");
}

}  // namespace core
