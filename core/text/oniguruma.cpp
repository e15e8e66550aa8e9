#include "core/text/oniguruma.h"

#include <algorithm>
#include <array>
#include <cctype>

#include "core/error.h"

namespace core {
namespace {

// Unicode White_Space, for the inside of a class.
constexpr std::string_view kSpaces =
    R"(\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

bool is_alnum(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0; }

// One pass over the pattern; `at_` is the next byte to read, `out_` what has been written.
class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      if (peek() == '\\') {
        escape(false);
      } else if (peek() == '[') {
        character_class();
      } else if (starts("(?") || starts("(*")) {
        group();
      } else if (peek() == '{') {
        interval();
      } else {
        copy(1);
      }
    }
    return std::move(out_);
  }

 private:
  char peek(size_t ahead = 0) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }
  bool starts(std::string_view text) const { return pattern_.substr(at_, text.size()) == text; }

  void copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  void replace(size_t bytes, std::string_view with) {
    at_ += bytes;
    out_ += with;
  }

  [[noreturn]] void refuse(std::string_view what) const {
    fail("{}: pattern `{}` is not implemented: {}. Use a tokenizer without it.", where_, pattern_, what);
  }

  void escape(bool in_class) {
    const char c = peek(1);
    if (c == '\0') refuse("it ends in a backslash");
    if (c == 's') return replace(2, in_class ? std::string(kSpaces) : "[" + std::string(kSpaces) + "]");
    if (c == 'S') return in_class ? replace(2, R"(\S\x{180E})") : replace(2, "[^" + std::string(kSpaces) + "]");
    if (c == 'p' || c == 'P') return property();
    if (c == 'u') return code_point();
    if (c == 'x') return hexadecimal();
    if (std::string_view("rntfaedD").find(c) != std::string_view::npos) return copy(2);
    if (!in_class && (c == 'A' || c == 'z')) return copy(2);
    if (is_alnum(c)) refuse(std::string("the escape \\") + c);
    copy(2);
  }

  // \p{L}, \p{^Lu}, \P{N}
  void property() {
    const size_t end = pattern_.find('}', at_);
    if (peek(2) != '{' || end == std::string_view::npos) refuse("a property without braces");
    std::string_view name = pattern_.substr(at_ + 3, end - at_ - 3);
    if (name.starts_with('^')) name.remove_prefix(1);
    const bool category =
        (name.size() == 1 || name.size() == 2) && std::isupper(name[0]) && (name.size() == 1 || std::islower(name[1]));
    if (!category) refuse("the property " + std::string(name));
    copy(end + 1 - at_);
  }

  // \u3000
  void code_point() {
    const std::string digits(pattern_.substr(at_ + 2, 4));
    const bool hex = digits.size() == 4 &&
                     std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return std::isxdigit(c) != 0; });
    if (!hex) refuse("\\u without four digits");
    replace(6, "\\x{" + digits + "}");
  }

  // \x{3000}, and \x7F below 0x80, where a byte is a character
  void hexadecimal() {
    const size_t end = pattern_.find('}', at_);
    if (peek(2) == '{' && end != std::string_view::npos) return copy(end + 1 - at_);
    const bool ascii = peek(2) >= '0' && peek(2) <= '7' && std::isxdigit(static_cast<unsigned char>(peek(3)));
    if (!ascii) refuse("the escape \\x of a byte beyond ASCII");
    copy(4);
  }

  void character_class() {
    copy(1);
    if (peek() == '^') copy(1);
    if (peek() == ']') refuse("] at the start of a class");
    while (peek() != ']') {
      if (at_ >= pattern_.size()) refuse("a class without its ]");
      if (peek() == '[') refuse("a class inside a class");
      if (starts("&&")) refuse("&& in a class");
      if (peek() == '\\') {
        escape(true);
      } else {
        copy(1);
      }
    }
    copy(1);
  }

  void group() {
    constexpr std::array<std::string_view, 7> kKnown = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    for (const std::string_view known : kKnown)
      if (starts(known)) return copy(known.size());
    refuse("the group " + std::string(pattern_.substr(at_, 4)));
  }

  // {2}, {2,}, {1,3}: the same in both, but not with what may follow.
  void interval() {
    const size_t end = pattern_.find('}', at_);
    if (end == std::string_view::npos || !std::isdigit(static_cast<unsigned char>(peek(1)))) refuse("a bare {");
    copy(end + 1 - at_);
    if (peek() == '+' || peek() == '?') refuse(std::string("}") + peek());
  }

  std::string_view pattern_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) { return Translator(pattern, where).run(); }

}  // namespace core
