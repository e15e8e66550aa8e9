// Strict JSON: what a lenient parser lets pass (a name twice in one object, a depth that exhausts the stack) is an
// error, and every error is one line with the place. nlohmann-json does the parsing.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

namespace core {

// How an error about a text reads: "<where>: <subject> is not JSON (line 3, column 7). <advice>".
struct JsonSource {
  std::string where;    // the file
  std::string subject;  // "the header", "the text"
  std::string advice;   // one sentence with its full stop
};

// Parses the text, or throws UserError. Numbers that no double or 64-bit integer holds are an error too.
nlohmann::json parse_json(std::string_view text, const JsonSource& source);

// Whether the bytes are well-formed UTF-8 (no overlong forms, no surrogates).
bool is_utf8(std::string_view bytes);

// A name from a file as it may stand in a one-line message: control characters and ill-formed bytes as \xNN, cut at 120
// bytes.
std::string printable(std::string_view name);

}  // namespace core
