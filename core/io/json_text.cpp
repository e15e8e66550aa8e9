#include "core/io/json_text.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "core/error.h"

namespace core {
namespace {

constexpr int kMaxDepth = 100;
constexpr size_t kMaxPrinted = 120;

// The length of the well-formed sequence at the start of `s`, or 0 (RFC 3629, the table of section 4).
size_t utf8_sequence(std::string_view s) {
  const auto byte = [&](size_t i) { return i < s.size() ? static_cast<unsigned char>(s[i]) : 0u; };
  const auto tail = [&](size_t i, unsigned low = 0x80, unsigned high = 0xBF) {
    return byte(i) >= low && byte(i) <= high;
  };
  const unsigned lead = byte(0);
  if (lead < 0x80) return s.empty() ? 0 : 1;
  if (lead >= 0xC2 && lead <= 0xDF) return tail(1) ? 2 : 0;
  if (lead >= 0xE0 && lead <= 0xEF) {
    return tail(1, lead == 0xE0 ? 0xA0 : 0x80, lead == 0xED ? 0x9F : 0xBF) && tail(2) ? 3 : 0;
  }
  if (lead >= 0xF0 && lead <= 0xF4) {
    return tail(1, lead == 0xF0 ? 0x90 : 0x80, lead == 0xF4 ? 0x8F : 0xBF) && tail(2) && tail(3) ? 4 : 0;
  }
  return 0;
}

size_t well_formed_prefix(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const size_t length = utf8_sequence(bytes.substr(at));
    if (length == 0) break;
    at += length;
  }
  return at;
}

// "line 3, column 7" of a byte counted from 0.
std::string place(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte, text.size()));
  const size_t line_start = before.rfind('\n') == std::string_view::npos ? 0 : before.rfind('\n') + 1;
  return fmt::format("line {}, column {}", std::count(before.begin(), before.end(), '\n') + 1,
                     before.size() - line_start + 1);
}

// Watches the parser's events: the names seen so far in each open object.
class Guard {
 public:
  explicit Guard(const JsonSource& source) : source_(source) {}

  bool operator()(int depth, nlohmann::json::parse_event_t event, const nlohmann::json& parsed) {
    using Event = nlohmann::json::parse_event_t;
    require(depth <= kMaxDepth, "{}: {} is nested deeper than {} levels. {}", source_.where, source_.subject, kMaxDepth,
            source_.advice);
    if (event == Event::object_start) open_.emplace_back();
    if (event == Event::object_end) open_.pop_back();
    if (event == Event::key) {
      const auto& name = parsed.get_ref<const std::string&>();
      require(open_.back().insert(name).second, "{}: {} has the name `{}` twice. {}", source_.where, source_.subject,
              printable(name), source_.advice);
    }
    return true;
  }

 private:
  const JsonSource& source_;
  std::vector<std::set<std::string>> open_;
};

}  // namespace

bool is_utf8(std::string_view bytes) { return well_formed_prefix(bytes) == bytes.size(); }

std::string printable(std::string_view name) {
  std::string out;
  size_t at = 0;
  while (at < name.size()) {
    const size_t length = utf8_sequence(name.substr(at));
    const auto first = static_cast<unsigned char>(name[at]);
    const bool shown = length > 0 && first >= 0x20 && first != 0x7F;
    const std::string piece = shown ? std::string(name.substr(at, length)) : fmt::format("\\x{:02X}", first);
    if (out.size() + piece.size() > kMaxPrinted) return out + "...";
    out += piece;
    at += shown ? length : 1;
  }
  return out;
}

nlohmann::json parse_json(std::string_view text, const JsonSource& source) {
  const size_t good = well_formed_prefix(text);
  require(good == text.size(), "{}: {} is not UTF-8 ({}). {}", source.where, source.subject, place(text, good),
          source.advice);
  Guard guard(source);
  try {
    return nlohmann::json::parse(text.begin(), text.end(), std::ref(guard));
  } catch (const nlohmann::json::parse_error& error) {
    const size_t byte = error.byte > 0 ? error.byte - 1 : 0;
    fail("{}: {} is not JSON ({}). {}", source.where, source.subject, place(text, byte), source.advice);
  } catch (const nlohmann::json::exception&) {  // the one other thing a parser throws: out_of_range.406
    fail("{}: {} holds a number that is out of range. {}", source.where, source.subject, source.advice);
  }
}

}  // namespace core
