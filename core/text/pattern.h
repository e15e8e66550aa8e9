// A compiled pattern that cuts a text into pieces. PCRE2 with UTF and Unicode properties, compiled to machine code
// where PCRE2 can.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/text/json_node.h"

namespace core {

class Pattern {
 public:
  // From Oniguruma's syntax, see core/text/oniguruma.h. `where` opens the messages.
  static Pattern regex(std::string_view pattern, const std::string& where);
  // Matches the text itself.
  static Pattern literal(std::string_view text, const std::string& where);

  // From {"Regex": ...} or {"String": ...} of tokenizer.json.
  static Pattern of(const JsonNode& json);

  struct Piece {
    std::string_view text;
    bool is_match = false;
  };
  // The matches and the gaps between them, in order, none empty: together they are the text. The text must be valid
  // UTF-8. Not to be called from two threads at once (one match buffer).
  std::vector<Piece> split(std::string_view text) const;
  // The text with every match replaced; matches of nothing are passed over.
  std::string replace(std::string_view text, std::string_view with) const;

 private:
  struct Compiled;
  struct Free {
    void operator()(Compiled* compiled) const;
  };
  Pattern(std::string_view pattern, std::string_view shown, uint32_t options, const std::string& where);

  std::string shown_;  // as the user wrote it, for messages
  std::string where_;
  std::unique_ptr<Compiled, Free> compiled_;
};

}  // namespace core
