#include "core/io/size.h"

#include <cctype>
#include <charconv>
#include <string_view>

#include "core/error.h"
#include "core/io/json_text.h"

namespace core {

int64_t parse_size(const std::string& text, const std::string& where) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  std::string unit;
  for (const char* c = end; c < text.data() + text.size(); ++c)
    if (*c != ' ') unit += static_cast<char>(std::tolower(static_cast<unsigned char>(*c)));
  if (unit.ends_with('b')) unit.pop_back();
  const double base = unit.size() == 2 && unit[1] == 'i' ? 1024 : 1000;
  if (base == 1024) unit.pop_back();
  constexpr std::string_view kUnits = "kmgt";
  const size_t power = unit.empty() ? 0 : kUnits.find(unit) + 1;
  double bytes = number;
  for (size_t i = 0; i < power; ++i) bytes *= base;
  const bool known = unit.empty() || (unit.size() == 1 && power > 0);
  require(error == std::errc() && known && bytes >= 0 && bytes < 9e18,
          "{}: `{}` is not a size. Write a number and k, M, G or T, e.g. 20GB.", where, printable(text));
  return static_cast<int64_t>(bytes);
}

}  // namespace core
