#include "core/text/byte_alphabet.h"

#include <array>
#include <unordered_map>

#include "core/text/utf8.h"

namespace core {
namespace {

bool stands_for_itself(int byte) {
  return (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

std::array<std::string, 256> make_symbols() {
  std::array<std::string, 256> symbols;
  char32_t next = 0x100;
  for (int byte = 0; byte < 256; ++byte)
    append_utf8(symbols[byte], stands_for_itself(byte) ? static_cast<char32_t>(byte) : next++);
  return symbols;
}

const std::array<std::string, 256>& symbols() {
  static const std::array<std::string, 256> made = make_symbols();
  return made;
}

const std::unordered_map<std::string, char>& bytes() {
  static const std::unordered_map<std::string, char> made = [] {
    std::unordered_map<std::string, char> map;
    for (int byte = 0; byte < 256; ++byte) map.emplace(symbols()[byte], static_cast<char>(byte));
    return map;
  }();
  return made;
}

}  // namespace

std::string byte_symbol(uint8_t byte) { return symbols()[byte]; }

std::optional<std::string> bytes_of_symbols(std::string_view token) {
  std::string result;
  for (size_t at = 0; at < token.size();) {
    const std::string symbol(token.substr(at, utf8_length(token[at])));
    const auto found = bytes().find(symbol);
    if (found == bytes().end()) return std::nullopt;
    result += found->second;
    at += symbol.size();
  }
  return result;
}

}  // namespace core
