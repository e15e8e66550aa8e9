#include "core/config/scalar.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace core {
namespace {

// Not std::isdigit and friends: those follow the locale and are undefined for negative chars.
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
bool is_sign(char c) { return c == '+' || c == '-'; }

std::size_t skip_digits(std::string_view text, std::size_t i) {
  while (i < text.size() && is_digit(text[i])) ++i;
  return i;
}

// [sign] digits [. digits] [e [sign] digits], with at least one digit before the exponent.
bool is_decimal(std::string_view text) {
  std::size_t i = !text.empty() && is_sign(text[0]) ? 1 : 0;
  std::size_t end = skip_digits(text, i);
  std::size_t digits = end - i;
  if (end < text.size() && text[end] == '.') {
    i = end + 1;
    end = skip_digits(text, i);
    digits += end - i;
  }
  if (digits == 0) return false;
  if (end == text.size()) return true;
  if (text[end] != 'e' && text[end] != 'E') return false;
  i = end + 1;
  if (i < text.size() && is_sign(text[i])) ++i;
  return i < text.size() && skip_digits(text, i) == text.size();
}

}  // namespace

std::optional<int64_t> parse_integer(std::string_view text) {
  if (!text.empty() && text[0] == '+') text.remove_prefix(1);
  const std::string_view digits = text.substr(!text.empty() && text[0] == '-' ? 1 : 0);
  if (digits.empty() || !is_digit(digits[0]) || (digits.size() > 1 && digits[0] == '0')) return {};
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return {};
  return value;
}

std::optional<double> parse_number(std::string_view text) {
  if (!is_decimal(text)) return {};
  const double value = std::strtod(std::string(text).c_str(), nullptr);  // libc++ has no from_chars for doubles
  if (!std::isfinite(value)) return {};
  return value;
}

std::string format_number(double value) {
  std::string text = fmt::format("{}", value);
  if (text.find('.') != std::string::npos || !std::isfinite(value)) return text;
  const std::size_t exponent = std::min(text.find('e'), text.size());
  return text.insert(exponent, ".0");
}

bool reads_as_string(std::string_view text) {
  static constexpr std::array<std::string_view, 15> kWords = {"",    "~", "null", "true", "false", "yes", "no", "on",
                                                              "off", "y", "n",    "nan",  "inf",   "=",   "<<"};
  std::string word(text);
  std::transform(word.begin(), word.end(), word.begin(),
                 [](char c) { return c >= 'A' && c <= 'Z' ? c - 'A' + 'a' : c; });
  if (std::find(kWords.begin(), kWords.end(), word) != kWords.end()) return false;
  std::size_t i = is_sign(word[0]) ? 1 : 0;
  if (word.substr(i) == ".nan" || word.substr(i) == ".inf") return false;
  if (i < word.size() && word[i] == '.') ++i;
  return i == word.size() ||
         !is_digit(word[i]);  // cautious: 1e3, 0x10, 08, 1_000, 2026-01-31, 12:30 are all "not a string"
}

bool is_bare(std::string_view text) {
  if (text.empty() || text == "..." || text.back() == ' ') return false;
  const char first = text[0];
  const bool number = is_digit(first) || (text.size() > 1 && is_sign(first) && (is_digit(text[1]) || text[1] == '.'));
  if (!number && !is_letter(first) && first != '_' && first != '/' && first != '.') return false;
  for (std::string_view word : {"null", "Null", "NULL"}) {
    if (text == word) return false;
  }
  return std::all_of(text.begin(), text.end(), [](char c) {
    return is_letter(c) || is_digit(c) || std::string_view("_-./+*=@ ").find(c) != std::string_view::npos;
  });
}

std::string in_quotes(std::string_view text) {
  std::string quoted = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      quoted += {'\\', c};
    } else if (c == '\n') {
      quoted += "\\n";
    } else if (c == '\t') {
      quoted += "\\t";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      quoted += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace core
