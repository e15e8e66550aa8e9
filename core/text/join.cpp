#include "core/text/join.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "core/error.h"

namespace core {
namespace {

// Without their line ends; an end of line at the end of the file begins no further line.
std::vector<std::string_view> lines_of(std::string_view file) {
  std::vector<std::string_view> lines;
  while (!file.empty()) {
    const size_t end = file.find('\n');
    lines.push_back(file.substr(0, end));
    file.remove_prefix(end == std::string_view::npos ? file.size() : end + 1);
  }
  return lines;
}

std::string_view stripped(std::string_view line) {
  const size_t first = line.find_first_not_of(" \t\r");
  return first == std::string_view::npos ? "" : line.substr(first, line.find_last_not_of(" \t\r") + 1 - first);
}

// A row that is not blank keeps its line end.
std::string join_rows(const std::vector<std::string_view>& lines) {
  std::string text;
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) text += "\n\n";
    if (!stripped(lines[i]).empty()) text.append(lines[i]).append("\n");
  }
  return text;
}

std::string join_lines(std::vector<std::string_view> lines) {
  for (std::string_view& line : lines) line = stripped(line);
  return fmt::format("{}", fmt::join(lines, " "));
}

std::string join_documents(const std::vector<std::string_view>& lines, int64_t most, const std::string& path) {
  const auto found = static_cast<int64_t>(lines.size());
  require(found >= most, "{}: {} documents, but this corpus is the first {}. Use the whole file of the data set.", path,
          found, most);
  std::vector<std::string> documents;
  for (int64_t i = 0; i < (most > 0 ? most : found); ++i) {
    const nlohmann::json line = nlohmann::json::parse(lines[i], nullptr, /*allow_exceptions=*/false);
    require(line.is_object() && line.contains("text") && line["text"].is_string(),
            "{}:{}: an object with a text in its field `text` is expected. Unpack the data set as JSON lines.", path,
            i + 1);
    documents.push_back(line["text"]);
  }
  return fmt::format("{}", fmt::join(documents, " "));
}

}  // namespace

std::string Join::text() const { return documents > 0 ? fmt::format("{} {}", kind, documents) : kind; }

const std::vector<std::string>& join_kinds() {
  static const std::vector<std::string> kinds{"none", "rows", "lines", "documents"};
  return kinds;
}

std::string join(std::string file, const Join& how, const std::string& path) {
  if (how.kind == "rows") return join_rows(lines_of(file));
  if (how.kind == "lines") return join_lines(lines_of(file));
  if (how.kind == "documents") return join_documents(lines_of(file), how.documents, path);
  return file;
}

}  // namespace core
