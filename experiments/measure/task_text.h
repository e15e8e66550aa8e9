// How tasks shape their texts: the string operations of Python that lm-evaluation-harness is written in, on UTF-8.
#pragma once

#include <cstdint>
#include <string>

namespace experiments {

// White space as Python's str.strip() has it, off both ends or off one.
std::string stripped(const std::string& text);
std::string left_stripped(const std::string& text);
std::string right_stripped(const std::string& text);

int64_t characters(const std::string& text);  // code points

std::string without_last(const std::string& text);      // without the last character; the text has one
std::string with_small_first(const std::string& text);  // the first character in lower case
// str.capitalize(): the first character in title case, all others in lower case.
std::string capitalized(const std::string& text);

// HellaSwag: white space off the ends, ` [title]` becomes a full stop, other [...] on one line are dropped, and two
// spaces become one, once.
std::string without_brackets(const std::string& text);

// WikiText: spaces that its tokenization put around punctuation, numbers, brackets and quotes are taken out.
std::string detokenized(const std::string& page);

// Pieces into which runs of white space divide a text, empty ones at its ends counted: len(re.split(r"\s+", text)).
int64_t pieces_between_spaces(const std::string& text);

}  // namespace experiments
