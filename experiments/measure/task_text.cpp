#include "experiments/measure/task_text.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "core/text/utf8.h"

namespace experiments {

namespace {

bool is_space(char32_t c) { return core::is_white_space(c) || (c >= 0x1C && c <= 0x1F); }

std::string joined(const std::vector<char32_t>& points) {
  std::string text;
  for (const char32_t c : points) core::append_utf8(text, c);
  return text;
}

void replace_all(std::string& text, const std::string& from, const std::string& to) {
  std::string result;
  size_t at = 0;
  for (size_t found = text.find(from); found != std::string::npos; found = text.find(from, at)) {
    result.append(text, at, found - at).append(to);
    at = found + from.size();
  }
  text = result.append(text, at);
}

// White space behind an opening mark and before the next closing one is taken out.
void strip_inside(std::string& text, char open, char close) {
  std::string result;
  size_t at = 0;
  while (true) {
    const size_t first = text.find(open, at);
    const size_t last = first == std::string::npos ? first : text.find(close, first + 1);
    if (last == std::string::npos) break;
    result.append(text, at, first - at).append(1, open);
    result.append(stripped(text.substr(first + 1, last - first - 1))).append(1, close);
    at = last + 1;
  }
  text = result.append(text, at);
}

}  // namespace

std::string left_stripped(const std::string& text) {
  std::vector<char32_t> points = core::code_points(text);
  points.erase(points.begin(), std::find_if_not(points.begin(), points.end(), is_space));
  return joined(points);
}

std::string right_stripped(const std::string& text) {
  std::vector<char32_t> points = core::code_points(text);
  points.erase(std::find_if_not(points.rbegin(), points.rend(), is_space).base(), points.end());
  return joined(points);
}

std::string stripped(const std::string& text) { return right_stripped(left_stripped(text)); }

int64_t characters(const std::string& text) { return static_cast<int64_t>(core::code_points(text).size()); }

std::string without_last(const std::string& text) {
  std::vector<char32_t> points = core::code_points(text);
  points.pop_back();
  return joined(points);
}

std::string with_small_first(const std::string& text) {
  std::vector<char32_t> points = core::code_points(text);
  if (!points.empty()) points[0] = core::lower_case(points[0]);
  return joined(points);
}

std::string capitalized(const std::string& text) {
  std::vector<char32_t> points = core::code_points(text);
  for (char32_t& c : points) c = core::lower_case(c);
  if (!points.empty()) points[0] = core::title_case(core::first_code_point(text));
  return joined(points);
}

std::string without_brackets(const std::string& text) {
  std::string result = stripped(text);
  replace_all(result, " [title]", ". ");
  std::string kept;
  size_t at = 0;
  while (true) {  // [...] ends at the next ], and never behind a line break
    const size_t open = result.find('[', at);
    if (open == std::string::npos) break;
    const size_t close = result.find(']', open);
    if (close == std::string::npos || result.find('\n', open) < close) {
      kept.append(result, at, open + 1 - at);
      at = open + 1;
      continue;
    }
    kept.append(result, at, open - at);
    at = close + 1;
  }
  kept.append(result, at);
  replace_all(kept, "  ", " ");
  return kept;
}

std::string detokenized(const std::string& page) {
  std::string text = page;
  const auto replace = [&](const std::vector<std::pair<std::string, std::string>>& pairs) {
    for (const auto& [from, to] : pairs) replace_all(text, from, to);
  };
  replace({{"s '", "s'"}});
  for (char digit = '0'; digit <= '9'; ++digit)  // what the reference writes there, by a slip of its pattern
    replace_all(text, std::string("/' ") + digit + "/", "/'[0-9]/");
  replace({{" @-@ ", "-"}, {" @,@ ", ","}, {" @.@ ", "."}});
  replace({{" : ", ": "}, {" ; ", "; "}, {" . ", ". "}, {" ! ", "! "}, {" ? ", "? "}, {" , ", ", "}});
  strip_inside(text, '(', ')');
  strip_inside(text, '[', ']');
  strip_inside(text, '{', '}');
  strip_inside(text, '"', '"');
  strip_inside(text, '\'', '\'');
  replace({{"= = = =", "===="}, {"= = =", "==="}, {"= =", "=="}, {" \u00b0 ", "\u00b0"}});
  replace({{" \n", "\n"}, {"\n ", "\n"}, {" N ", " 1 "}, {" 's", "'s"}});
  return text;
}

int64_t pieces_between_spaces(const std::string& text) {
  int64_t pieces = 1;
  bool in_space = false;
  for (const char32_t c : core::code_points(text)) {
    const bool space = is_space(c);
    pieces += space && !in_space ? 1 : 0;
    in_space = space;
  }
  return pieces;
}

}  // namespace experiments
