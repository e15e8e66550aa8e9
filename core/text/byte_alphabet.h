// The byte-level alphabet (Radford et al. 2019, GPT-2): every byte is written as one printable character, so that any
// text is a word over 256 symbols; a vocabulary with all of them knows every text. Printable Latin-1 bytes stand for
// themselves; the other 68, in order, are the characters from U+0100 on (the space becomes `Ġ`).
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace core {

// The character (UTF-8) that stands for the byte.
std::string byte_symbol(uint8_t byte);

// The bytes that a token of the vocabulary stands for; none if a character of it is not in the alphabet.
std::optional<std::string> bytes_of_symbols(std::string_view token);

}  // namespace core
