// tokenizer.json holds patterns for the Oniguruma engine (its Ruby syntax); we run PCRE2. This translates a pattern so
// that both find the same matches, and refuses by name what the two read differently and we do not translate.
#pragma once

#include <string>
#include <string_view>

namespace core {

// The PCRE2 pattern (options UTF, UCP, MULTILINE, newline = LF) with the matches of the Oniguruma pattern. Differences:
//   ^ $        ends of lines in both under MULTILINE (Oniguruma knows no other kind)
//   \s \S      Unicode White_Space; PCRE2 adds U+180E, so the 25 characters are written out
//   \uHHHH     becomes \x{HHHH}
//   \p{..}     general categories only: for scripts PCRE2 means Script_Extensions
// Refused: \w \b \h \v \R \X ... (other classes), nested classes and && in a class, inline options but (?i:...), named
// groups, and {n,m} followed by + or ?. Which code points a category holds still follows each library's Unicode
// version. Throws UserError "<where>: pattern ... is not implemented: ...".
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace core
