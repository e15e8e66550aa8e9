#include "core/io/csv.h"

#include <fmt/core.h>

#include "core/error.h"

namespace core {

std::string csv_cell(double value) { return fmt::format("{}", value); }
std::string csv_cell(int64_t value) { return fmt::format("{}", value); }

std::string csv_cell(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string csv_line(const std::vector<std::string>& cells) {
  std::string out;
  for (size_t i = 0; i < cells.size(); ++i) {
    if (i > 0) out += ',';
    out += csv_cell(std::string_view(cells[i]));
  }
  return out;
}

CsvTable::CsvTable(std::vector<std::string> columns) : columns_(columns.size()), text_(csv_line(columns) + '\n') {}

void CsvTable::add(const std::vector<std::string>& cells) {
  if (cells.size() != columns_) {  // our own bug, not the user's
    throw std::logic_error(fmt::format("a row of {} cells in a table of {} columns", cells.size(), columns_));
  }
  text_ += csv_line(cells) + '\n';
}

std::string CsvTable::text() const { return text_; }

std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where) {
  std::vector<std::vector<std::string>> rows;
  bool quoted = false, row_open = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (!row_open) rows.push_back({""}), row_open = true;
    std::string& cell = rows.back().back();
    if (quoted && c == '"' && i + 1 < text.size() && text[i + 1] == '"') {
      cell += c, ++i;
    } else if (c == '"') {
      quoted = !quoted;
    } else if (quoted || (c != ',' && c != '\n' && c != '\r')) {
      cell += c;
    } else if (c == ',') {
      rows.back().emplace_back();
    } else if (c == '\n') {
      row_open = false;
    }
  }
  require(!quoted, "{}: a quote in row {} is not closed. Is the file complete?", where, rows.size());
  return rows;
}

}  // namespace core
