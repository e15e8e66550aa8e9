#include "experiments/results/table.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/io/csv.h"

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
    const auto alike = std::count_if(keys.begin(), keys.end(), [&](const std::string& other) { return last(other) == last(key); });
    names.push_back(alike == 1 ? last(key) : key);
  }
  return names;
}

std::string number(const Json& value, int digits) {
  return value.is_null() ? kMissing : fmt::format("{:.{}f}", value.get<double>(), digits);
}

// ppl, standard error and change for each measurement; `baseline` null: no change is known.
void add_perplexities(Cells& row, const Json& measured, const Json& baseline) {
  for (size_t i = 0; i < measured["perplexity"].size(); ++i) {
    const Json& p = measured["perplexity"][i];
    const double ppl = p["ppl"];
    row.push_back(fmt::format("{:.4f}", ppl));
    row.push_back(fmt::format("{:.4f}", p["ppl_stderr"].get<double>()));
    row.push_back(baseline.is_null() ? kMissing
                                     : fmt::format("{:+.2f} %", 100 * (ppl / baseline["perplexity"][i]["ppl"].get<double>() - 1)));
  }
}

double total_seconds(const Json& run) {
  double seconds = 0;
  for (const Json& stage : run["stages"]) seconds += stage["seconds"].get<double>();
  return seconds;
}

Cells failed_row(const Json& run, Cells row, size_t columns) {
  row.push_back("failed: " + run["failed"].get<std::string>());
  row.resize(columns, kMissing);
  return row;
}

const Json* first_finished(const std::vector<Json>& results) {
  const auto found = std::find_if(results.begin(), results.end(), [](const Json& run) { return !run.contains("failed"); });
  return found == results.end() ? nullptr : &*found;
}

size_t width(const std::string& text) {  // characters, not bytes
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

Table make_table(const std::vector<Json>& results) {
  const Cells keys = swept_keys(results);
  Table table{.columns = short_names(keys), .rows = {}};
  if (table.columns.empty()) table.columns = {"model"};
  const size_t labels = table.columns.size();
  table.columns.push_back("bits/weight");
  const Json* first = first_finished(results);
  if (first == nullptr) table.columns.push_back("perplexity");
  for (const Json& p : first != nullptr ? (*first)["quantized"]["perplexity"] : Json::array()) {
    table.columns.push_back(fmt::format("ppl {} ({} {})", p["corpus"].get<std::string>(), p["protocol"].get<std::string>(),
                                        p["seq_len"].get<int64_t>()));
    table.columns.insert(table.columns.end(), {"±", "change"});
  }
  table.columns.push_back("seconds");
  if (first != nullptr && !(*first)["baseline"].is_null()) {
    Cells row{"full precision"};
    row.resize(labels);
    row.push_back(kMissing);
    add_perplexities(row, (*first)["baseline"], (*first)["baseline"]);
    row.push_back(kMissing);
    table.rows.push_back(std::move(row));
  }
  for (const Json& run : results) {
    Cells row;
    for (const std::string& key : keys) row.push_back(run["swept"].contains(key) ? run["swept"][key].get<std::string>() : "");
    if (keys.empty()) row.push_back("quantized");
    if (run.contains("failed")) {
      table.rows.push_back(failed_row(run, std::move(row), table.columns.size()));
      continue;
    }
    row.push_back(number(run["bits"]["with_parameters"], 4));
    add_perplexities(row, run["quantized"], run["baseline"]);
    row.push_back(fmt::format("{:.1f}", total_seconds(run)));
    table.rows.push_back(std::move(row));
  }
  return table;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(width(columns[c]));
    for (const Cells& row : rows) widths[c] = std::max(widths[c], row[c].starts_with("failed") ? 0 : width(row[c]));
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
