#include "experiments/results/table.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "core/io/csv.h"
#include "experiments/measure/measures.h"
#include "experiments/results/seeds.h"

namespace experiments {

namespace {

using Cells = std::vector<std::string>;

constexpr const char* kMissing = "–";

void append(Cells& row, const Cells& more) { row.insert(row.end(), more.begin(), more.end()); }

// ---- what was swept ----

// Every swept key of any run, in the order of appearance.
Cells swept_keys(const std::vector<Row>& rows) {
  Cells keys;
  for (const Row& row : rows) {
    for (const auto& [key, value] : row.swept()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

// Shorter names for them: "bits", unless two end alike. A file without a sweep has one column, the model.
Cells swept_headings(const Cells& keys) {
  const auto last = [](const std::string& key) { return key.substr(key.rfind('.') + 1); };
  Cells names;
  for (const std::string& key : keys) {
    const auto alike =
        std::count_if(keys.begin(), keys.end(), [&](const std::string& other) { return last(other) == last(key); });
    names.push_back(alike == 1 ? last(key) : key);
  }
  return names.empty() ? Cells{"model"} : names;
}

Cells swept_cells(const Row& row, const Cells& keys) {
  if (keys.empty()) return {"quantized"};
  Cells cells;
  for (const std::string& key : keys) cells.push_back(row.swept(key));
  return cells;
}

// What is swept in the full-precision model too, i.e. all but the variables of quantization.
Cells full_precision_cells(const Row& row, const Cells& keys) {
  if (keys.empty()) return {"full precision"};
  Cells cells = swept_cells(row, keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!keys[i].starts_with("model") && !keys[i].starts_with("measure")) cells[i].clear();
  }
  cells[0] += cells[0].empty() ? "full precision" : " full precision";
  return cells;
}

// ---- columns ----

std::string number(double value, const Column& column) {
  switch (column.unit) {
    case Column::Unit::percent:
      return fmt::format("{:.{}f} %", 100 * value, column.digits);
    case Column::Unit::change:
      return fmt::format("{:+.{}f} %", 100 * value, column.digits);
    case Column::Unit::plain:
      return fmt::format("{:.{}f}", column.scale * value, column.digits);
  }
  return {};
}

// found: by a measurement. full: by the same one of full precision; null: there is none.
std::string cell(const Column& column, const Json& found, const Json* full) {
  const std::optional<double> value = Row::number_at(found, column.path);
  if (!value) return kMissing;
  if (column.unit == Column::Unit::change) {
    const std::optional<double> reference = full == nullptr ? std::nullopt : Row::number_at(*full, column.path);
    return reference ? number(*value / *reference - 1, column) : kMissing;
  }
  std::string text = number(*value, column);
  if (column.spread.empty()) return text;
  const std::optional<double> spread = Row::number_at(found, column.spread);
  return spread ? text + " ± " + number(*spread, column) : text;
}

// Columns that do not belong to a measure.
const std::vector<Column>& columns_of_runs() {
  static const std::vector<Column> columns{
      {.heading = "bits/weight", .path = "bits/with_parameters"},
      {.heading = "at 4096²", .path = "bits/at_4096"},
      {.heading = "eta", .path = "replication/eta", .digits = 2, .less_is_better = false, .optional = true},
      {.heading = "gain, bits",
       .path = "replication/gain_bits",
       .digits = 3,
       .less_is_better = false,
       .optional = true}};
  return columns;
}

bool any_has(const std::vector<Row>& rows, const std::string& path) {
  return std::any_of(rows.begin(), rows.end(), [&](const Row& row) { return row.finished() && row.has(path); });
}

// ---- measurements ----

// One measurement as a table tells it from others.
struct Named {
  std::string measure, name;
  bool operator==(const Named&) const = default;
};

// Names of a run's measurements of one kind, in its order; the second of two equal names gets a number.
std::vector<Named> measurements_of(const Row& row, const MeasureKind& kind) {
  std::vector<Named> names;
  Cells plain;
  const auto found = row.quantized().find(kind.name);
  if (found == row.quantized().end()) return names;
  const auto measure = kind.make();
  for (const Json& entry : found->second) {
    plain.push_back(measure->label(entry));
    const auto alike = std::count(plain.begin(), plain.end(), plain.back());
    names.push_back({kind.name, alike == 1 ? plain.back() : fmt::format("{} #{}", plain.back(), alike)});
  }
  return names;
}

// A measure with the columns that the runs of a table have.
struct Shown {
  const MeasureKind* kind;
  std::vector<Column> columns;
};

std::vector<Shown> shown_measures(const std::vector<Row>& rows) {
  std::vector<Shown> all;
  for (const MeasureKind& kind : measure_kinds()) {
    std::vector<const Json*> entries;
    for (const Row& row : rows) {
      const auto found = row.quantized().find(kind.name);
      if (!row.finished() || found == row.quantized().end()) continue;
      for (const Json& entry : found->second) entries.push_back(&entry);
    }
    if (entries.empty()) continue;
    Shown& shown = all.emplace_back(Shown{&kind, kind.make()->columns()});
    std::erase_if(shown.columns, [&](const Column& column) {
      const Json::json_pointer place("/" + column.path);
      return column.optional &&
             std::none_of(entries.begin(), entries.end(), [&](const Json* entry) { return entry->contains(place); });
    });
  }
  return all;
}

// Cells of the measurement `name` of a run: of its quantized model, or with `full` of its full-precision model.
Cells measured_cells(const Row& row, bool full, const Shown& shown, const std::string& name) {
  size_t i = 0;  // a single section has one measurement
  if (shown.kind->is_list) {
    const std::vector<Named> names = measurements_of(row, *shown.kind);
    const Named wanted{shown.kind->name, name};
    i = static_cast<size_t>(std::find(names.begin(), names.end(), wanted) - names.begin());
  }
  const auto entry = [&](const MeasuredModel* model) -> const Json* {
    if (model == nullptr) return nullptr;
    const auto found = model->find(shown.kind->name);
    return found == model->end() || i >= found->second.size() ? nullptr : &found->second[i];
  };
  const Json* baseline = entry(row.baseline() ? &*row.baseline() : nullptr);
  const Json* found = full ? baseline : entry(&row.quantized());
  Cells cells;
  for (const Column& column : shown.columns)
    cells.push_back(found == nullptr ? kMissing : cell(column, *found, baseline));
  return cells;
}

// ---- lines ----

// One row of a table before the measurements of lists: a full-precision model, a run, or the reason why there is none.
struct Line {
  const Row* row;
  bool full;    // the full-precision model of `row`
  Cells first;  // what was swept, bits, single measurements
  std::string seconds;
};

// Every full-precision model stands before its first run.
std::vector<Line> lines_of(const std::vector<Row>& rows, const Cells& keys, const std::vector<Column>& of_runs,
                           const std::vector<Shown>& singles) {
  std::vector<Line> lines;
  std::vector<Json> baselines;  // that have their line
  for (const Row& row : rows) {
    if (!row.finished()) {
      lines.push_back({&row, false, swept_cells(row, keys), ""});
      continue;
    }
    if (row.baseline() && std::find(baselines.begin(), baselines.end(), row["baseline"]) == baselines.end()) {
      Line& line = lines.emplace_back(Line{&row, true, full_precision_cells(row, keys), kMissing});
      line.first.resize(line.first.size() + of_runs.size(), kMissing);
      for (const Shown& single : singles) append(line.first, measured_cells(row, true, single, ""));
      baselines.push_back(row["baseline"]);
    }
    Line& line = lines.emplace_back(Line{&row, false, swept_cells(row, keys), fmt::format("{:.1f}", row.seconds())});
    for (const Column& column : of_runs) line.first.push_back(cell(column, row.json(), nullptr));
    for (const Shown& single : singles) append(line.first, measured_cells(row, false, single, ""));
  }
  return lines;
}

// Reasons that are not failures and say so themselves.
bool is_told(const std::string& reason) { return reason.starts_with("held by ") || reason.starts_with("no control: "); }

bool is_reason(const std::string& cell) { return cell.starts_with("failed: ") || is_told(cell); }

Cells failed_row(const Row& row, Cells cells, size_t columns) {
  cells.push_back(is_told(row.failure()) ? row.failure() : "failed: " + row.failure());
  cells.resize(columns, kMissing);
  return cells;
}

size_t width(const std::string& text) {  // characters, not bytes
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

// The measurements of lists that some run has, in the order of appearance.
std::vector<Named> listed_measurements(const std::vector<Row>& rows, const std::vector<Shown>& lists) {
  std::vector<Named> all;
  for (const Row& row : rows) {
    for (const Shown& list : lists) {
      for (const Named& one : measurements_of(row, *list.kind)) {
        if (std::find(all.begin(), all.end(), one) == all.end()) all.push_back(one);
      }
    }
  }
  return all;
}

// The headings of a measurement, the first of which says which it is; "": it stands in a column of its own.
Cells headings(const Shown& shown, const std::string& name) {
  Cells names;
  for (const Column& column : shown.columns) names.push_back(column.heading);
  if (!names.empty() && !name.empty()) names.front() += " " + name;
  return names;
}

}  // namespace

Table make_table(const std::vector<Row>& given) {
  constexpr size_t kSideBySide = 2;  // more measurements would not fit a page: they stand below each other
  const std::vector<Row> rows = with_means(given);
  const Cells keys = swept_keys(rows);
  std::vector<Column> of_runs = columns_of_runs();
  std::erase_if(of_runs, [&](const Column& column) { return column.optional && !any_has(rows, column.path); });
  std::vector<Shown> singles, lists;
  for (Shown& shown : shown_measures(rows)) (shown.kind->is_list ? lists : singles).push_back(std::move(shown));
  const std::vector<Named> measurements = listed_measurements(rows, lists);
  const bool below = measurements.size() > kSideBySide;

  Table table{.columns = swept_headings(keys), .rows = {}};
  for (const Column& column : of_runs) table.columns.push_back(column.heading);
  for (const Shown& single : singles) append(table.columns, headings(single, ""));
  if (below) table.columns.push_back("measured on");
  for (const Shown& list : lists) {
    if (below) append(table.columns, headings(list, ""));
    for (const Named& one : below ? std::vector<Named>() : measurements) {
      if (one.measure == list.kind->name) append(table.columns, headings(list, one.name));
    }
  }
  if (!below) table.columns.push_back("seconds");

  const auto add = [&](const Line& line, const std::vector<Named>& shown) {
    if (!line.row->finished()) return table.rows.push_back(failed_row(*line.row, line.first, table.columns.size()));
    Cells row = line.first;
    if (below) row.push_back(shown[0].name);
    for (const Shown& list : lists) {
      for (const Named& one : shown) {
        const bool here = one.measure == list.kind->name;
        if (here) append(row, measured_cells(*line.row, line.full, list, one.name));
        if (!here && below) row.resize(row.size() + list.columns.size(), kMissing);
      }
    }
    if (!below) row.push_back(line.seconds);
    table.rows.push_back(std::move(row));
  };
  const std::vector<Line> lines = lines_of(rows, keys, of_runs, singles);
  if (!below) {
    for (const Line& line : lines) add(line, measurements);
  }
  for (const Named& one : below ? measurements : std::vector<Named>()) {
    for (const Line& line : lines) add(line, {one});
  }
  return table;
}

std::vector<std::pair<std::string, Table>> detail_tables(const std::vector<Row>& rows) {
  std::vector<std::pair<std::string, Table>> tables;
  const Cells keys = swept_keys(rows);
  const Column& bits = columns_of_runs().front();
  for (const MeasureKind& kind : measure_kinds()) {
    const DetailTable details = kind.make()->details();
    if (details.columns.empty()) continue;
    Table table{.columns = swept_headings(keys), .rows = {}};
    table.columns.push_back(bits.heading);
    for (const Column& column : details.columns) table.columns.push_back(column.heading);
    for (const Row& row : rows) {
      const auto measured = row.quantized().find(kind.name);
      if (measured == row.quantized().end()) continue;
      for (const Json& entry : measured->second) {
        for (const Json& item : entry.at(Json::json_pointer("/" + details.list))) {
          Cells cells = swept_cells(row, keys);
          cells.push_back(cell(bits, row.json(), nullptr));
          for (Column column : details.columns) {
            const bool of_entry = column.path.starts_with("/");
            if (of_entry) column.path.erase(0, 1);
            cells.push_back(cell(column, of_entry ? entry : item, nullptr));
          }
          table.rows.push_back(std::move(cells));
        }
      }
    }
    if (!table.rows.empty()) tables.emplace_back(kind.name, std::move(table));
  }
  return tables;
}

std::pair<std::string, std::string> headline(const Row& row) {
  for (const MeasureKind& kind : measure_kinds()) {
    const auto found = row.quantized().find(kind.name);
    if (found == row.quantized().end() || found->second.empty()) continue;
    const auto measure = kind.make();
    const Json& entry = found->second.front();
    const std::vector<Column> columns = measure->columns();
    const auto value = columns.empty() ? std::nullopt : Row::number_at(entry, columns.front().path);
    return {measure->label(entry), value ? core::csv_cell(*value) : ""};
  }
  return {};
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(width(columns[c]));
    for (const Cells& row : rows) widths[c] = std::max(widths[c], is_reason(row[c]) ? 0 : width(row[c]));
  }
  std::string out;
  const auto add = [&](const Cells& row) {
    for (size_t c = 0; c < row.size(); ++c) {
      const size_t pad = widths[c] - std::min(widths[c], width(row[c]));
      out += (c == 0 ? row[c] + std::string(pad, ' ') : "  " + std::string(pad, ' ') + row[c]);
    }
    out += "\n";
  };
  add(columns);
  for (const Cells& row : rows) add(row);
  return out;
}

std::string Table::markdown() const {
  const auto line = [](const Cells& cells) { return fmt::format("| {} |\n", fmt::join(cells, " | ")); };
  std::string out = line(columns) + line(Cells(columns.size(), "---"));
  for (const Cells& row : rows) out += line(row);
  return out;
}

std::string Table::csv() const {
  core::CsvTable table(columns);
  for (const Cells& row : rows) table.add(row);
  return table.text();
}

std::string label(const std::vector<std::pair<std::string, std::string>>& swept) {
  Cells parts;
  for (const auto& [key, value] : swept) parts.push_back(key + "=" + value);
  return fmt::format("{}", fmt::join(parts, " "));
}

}  // namespace experiments
