// The text of a scalar and the value it stands for: what reads as an integer, a number, a string; and back.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace core {

// Decimal digits with an optional sign, no leading zeros (`08` is octal to some readers), within int64.
std::optional<int64_t> parse_integer(std::string_view text);

// Decimal integer or float with an optional exponent: "1", "-.5", "1e-3". Finite, or nothing: "1e999", ".nan", "0x1".
std::optional<double> parse_number(std::string_view text);

// The shortest text that reads back as the same double, always with a point (YAML 1.1 reads 1e-08 as a string).
std::string format_number(double value);

// A YAML reader takes the bare text for a string: not a number in any notation, not a bool or null in any spelling.
bool reads_as_string(std::string_view text);

// May be written without quotes anywhere, also inside [] and {}. Cautious: "a, b" could, but is quoted.
bool is_bare(std::string_view text);

// The text in double quotes with escapes.
std::string in_quotes(std::string_view text);

}  // namespace core
