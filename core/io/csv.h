// CSV as spreadsheets, pandas and our own --compare read it (RFC 4180): a cell with a comma, quote or line break is
// quoted, a double is printed with the fewest digits that give the same double back, a missing value is an empty cell.
#pragma once

#include <concepts>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// The text of one cell; nan, inf and -inf are printed as such.
std::string csv_cell(std::string_view text);
std::string csv_cell(double value);
std::string csv_cell(int64_t value);

// One line without its line break; the cells are quoted where needed.
std::string csv_line(const std::vector<std::string>& cells);

// A table with named columns, built row by row; each row must fill every column.
class CsvTable {
 public:
  explicit CsvTable(std::vector<std::string> columns);

  // table.row("wikitext2/test", 3, 12.5): any mix of texts, integers and floating-point numbers.
  template <typename... Cells>
  void row(const Cells&... cells) {
    add({plain(cells)...});
  }
  // A row of ready texts (they are quoted here where needed).
  void add(const std::vector<std::string>& cells);

  // Header and rows, each ended by a line break.
  std::string text() const;

 private:
  static std::string plain(std::string_view text) { return std::string(text); }
  static std::string plain(std::floating_point auto value) { return csv_cell(static_cast<double>(value)); }
  static std::string plain(std::integral auto value) { return csv_cell(static_cast<int64_t>(value)); }

  size_t columns_;
  std::string text_;
};

// The cells of a CSV text, row by row, quotes undone. `where` names the file in the message about an open quote.
std::vector<std::vector<std::string>> parse_csv(std::string_view text, const std::string& where);

}  // namespace core
