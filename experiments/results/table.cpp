#include "experiments/results/table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/io/csv.h"
#include "experiments/results/seeds.h"

namespace experiments {

using Json = nlohmann::ordered_json;
using Cells = std::vector<std::string>;

namespace {

constexpr const char* kMissing = "–";

// Every swept key of any run, in the order of appearance.
Cells swept_keys(const std::vector<Json>& results) {
  Cells keys;
  for (const Json& run : results) {
    for (const auto& [key, value] : run["swept"].items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

// "quant.weight.bits" -> "bits", unless two keys end alike.
Cells short_names(const Cells& keys) {
  const auto last = [](const std::string& key) { return key.substr(key.rfind('.') + 1); };
  Cells names;
  for (const std::string& key : keys) {
    const auto alike =
        std::count_if(keys.begin(), keys.end(), [&](const std::string& other) { return last(other) == last(key); });
    names.push_back(alike == 1 ? last(key) : key);
  }
  return names;
}

std::string number(const Json& value, int digits) {
  return value.is_null() ? kMissing : fmt::format("{:.{}f}", value.get<double>(), digits);
}

// The names of a run's measurements; of two that read alike the second gets a number.
Cells titles_of(const Json& run) {
  Cells plain, titles;
  for (const Json& p : run["quantized"]["perplexity"]) {
    plain.push_back(fmt::format("ppl {} ({} {})", p["corpus"].get<std::string>(), p["protocol"].get<std::string>(),
                                p["seq_len"].get<int64_t>()));
    const auto alike = std::count(plain.begin(), plain.end(), plain.back());
    titles.push_back(alike == 1 ? plain.back() : fmt::format("{} #{}", plain.back(), alike));
  }
  return titles;
}

bool finished(const Json& run) { return !run.contains("failed"); }

// The measurements of all runs, in the order of appearance.
Cells all_titles(const std::vector<Json>& results) {
  Cells all;
  for (const Json& run : results) {
    for (const std::string& title : finished(run) ? titles_of(run) : Cells()) {
      if (std::find(all.begin(), all.end(), title) == all.end()) all.push_back(title);
    }
  }
  return all;
}

// ppl, standard error and change for each measurement of the table; `measured` is the run's `quantized` or its
// `baseline`.
void add_perplexities(Cells& row, const Json& run, const Json& measured, const Cells& columns) {
  const Cells titles = titles_of(run);
  const Json& baseline = run["baseline"];
  for (const std::string& column : columns) {
    const auto i = static_cast<size_t>(std::find(titles.begin(), titles.end(), column) - titles.begin());
    if (i == titles.size()) {
      row.insert(row.end(), {kMissing, kMissing, kMissing});
      continue;
    }
    const Json& p = measured["perplexity"][i];
    const double ppl = p["ppl"];
    row.push_back(fmt::format("{:.4f}", ppl));
    row.push_back(fmt::format("{:.4f}", p["ppl_stderr"].get<double>()));
    row.push_back(baseline.is_null()
                      ? kMissing
                      : fmt::format("{:+.2f} %", 100 * (ppl / baseline["perplexity"][i]["ppl"].get<double>() - 1)));
  }
}

double total_seconds(const Json& run) {
  double seconds = 0;
  for (const Json& stage : run["stages"]) seconds += stage["seconds"].get<double>();
  return seconds;
}

Cells failed_row(const Json& run, Cells row, size_t columns) {
  const std::string reason = run["failed"];
  row.push_back(reason.starts_with("held by ") ? reason : "failed: " + reason);
  row.resize(columns, kMissing);
  return row;
}

Cells swept_cells(const Json& run, const Cells& keys) {
  Cells cells;
  for (const std::string& key : keys)
    cells.push_back(run["swept"].contains(key) ? run["swept"][key].get<std::string>() : "");
  return cells;
}

// What is swept in the full-precision model too, i.e. all but the variables of quantization.
Cells full_precision_cells(const Json& run, const Cells& keys) {
  Cells cells = swept_cells(run, keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!keys[i].starts_with("model") && !keys[i].starts_with("measure")) cells[i].clear();
  }
  if (cells.empty()) return {"full precision"};
  cells[0] += cells[0].empty() ? "full precision" : " full precision";
  return cells;
}

size_t width(const std::string& text) {  // characters, not bytes
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

Table make_table(const std::vector<Json>& runs) {
  const std::vector<Json> results = with_means(runs);
  const Cells keys = swept_keys(results), titles = all_titles(results);
  Table table{.columns = short_names(keys), .rows = {}};
  if (table.columns.empty()) table.columns = {"model"};
  table.columns.push_back("bits/weight");
  for (const std::string& title : titles) table.columns.insert(table.columns.end(), {title, "±", "change"});
  table.columns.push_back("seconds");
  std::vector<Json> baselines;  // that have their row
  for (const Json& run : results) {
    Cells row = keys.empty() ? Cells{"quantized"} : swept_cells(run, keys);
    if (!finished(run)) {
      table.rows.push_back(failed_row(run, std::move(row), table.columns.size()));
      continue;
    }
    if (const Json& full = run["baseline"];
        !full.is_null() && std::find(baselines.begin(), baselines.end(), full) == baselines.end()) {
      Cells& first = table.rows.emplace_back(full_precision_cells(run, keys));
      first.push_back(kMissing);
      add_perplexities(first, run, full, titles);
      first.push_back(kMissing);
      baselines.push_back(full);
    }
    row.push_back(number(run["bits"]["with_parameters"], 4));
    add_perplexities(row, run, run["quantized"], titles);
    row.push_back(fmt::format("{:.1f}", total_seconds(run)));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(width(columns[c]));
    for (const Cells& row : rows)
      widths[c] =
          std::max(widths[c], row[c].starts_with("failed: ") || row[c].starts_with("held by ") ? 0 : width(row[c]));
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
