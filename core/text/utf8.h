// UTF-8 where text enters: a broken byte is refused with its offset rather than replaced, because a silent replacement
// character would change a measured text. Normalization form C is utf8proc's.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// Offset of the first byte that is not part of well-formed UTF-8 (overlong forms and surrogates are not); none: all is.
std::optional<size_t> first_invalid_utf8(std::string_view text);

// Throws UserError "<where>: byte 17 is not valid UTF-8. ..." unless the text is well-formed.
void require_utf8(std::string_view text, const std::string& where);

// Unicode normalization form C of a well-formed text. `tokenizers` 0.22 orders marks by Unicode 9: ids differ for texts
// that stack one of the 98 marks added since (Unicode 10 to 14, e.g. U+08D3) upon another mark.
std::string nfc(std::string_view text);

// Bytes of the character that starts with this byte of a well-formed text: 1 … 4.
size_t utf8_length(char first);

// The first and the last code point of a well-formed text that is not empty.
char32_t first_code_point(std::string_view text);
char32_t last_code_point(std::string_view text);

// Unicode's White_Space, and what `\w` matches by Unicode's rules (UTS 18): letters and all that is used like one,
// marks, decimal digits, connecting punctuation, joiners.
bool is_white_space(char32_t code_point);
bool is_word_character(char32_t code_point);

// The code points of a well-formed text.
std::vector<char32_t> code_points(std::string_view text);

// Unicode's simple mappings of one code point.
char32_t lower_case(char32_t code_point);
char32_t title_case(char32_t code_point);

// Appends one code point.
void append_utf8(std::string& text, char32_t code_point);

}  // namespace core
