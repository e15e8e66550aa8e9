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

}  // namespace

Cells swept_keys(const std::vector<Json>& results) {
  Cells keys;
  for (const Json& run : results) {
    for (const auto& [key, value] : run["swept"].items()) {
      if (std::find(keys.begin(), keys.end(), key) == keys.end()) keys.push_back(key);
    }
  }
  return keys;
}

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

Cells swept_cells(const Json& run, const Cells& keys) {
  if (keys.empty()) return {"quantized"};
  Cells cells;
  for (const std::string& key : keys)
    cells.push_back(run["swept"].contains(key) ? run["swept"][key].get<std::string>() : "");
  return cells;
}

namespace {

std::string number(const Json& value, int digits) {
  return value.is_null() ? kMissing : fmt::format("{:.{}f}", value.get<double>(), digits);
}

// "wikitext2/test (gptq 512)"; of a run's measurements that read alike the second gets a number.
Cells measurements_of(const Json& run) {
  Cells plain, names;
  for (const Json& p : run["quantized"]["perplexity"]) {
    plain.push_back(fmt::format("{} ({} {})", p["corpus"].get<std::string>(), p["protocol"].get<std::string>(),
                                p["seq_len"].get<int64_t>()));
    const auto alike = std::count(plain.begin(), plain.end(), plain.back());
    names.push_back(alike == 1 ? plain.back() : fmt::format("{} #{}", plain.back(), alike));
  }
  return names;
}

bool finished(const Json& run) { return !run.contains("failed"); }

// The measurements of all runs, in the order of appearance.
Cells all_measurements(const std::vector<Json>& results) {
  Cells all;
  for (const Json& run : results) {
    for (const std::string& name : finished(run) ? measurements_of(run) : Cells()) {
      if (std::find(all.begin(), all.end(), name) == all.end()) all.push_back(name);
    }
  }
  return all;
}

// Whether any run was compared with full precision token by token.
bool knows_kl(const std::vector<Json>& results) {
  return std::any_of(results.begin(), results.end(), [](const Json& run) {
    if (!finished(run)) return false;
    const Json& all = run["quantized"]["perplexity"];
    return std::any_of(all.begin(), all.end(), [](const Json& p) { return p.contains("kl_mean"); });
  });
}

Cells figure_names(const std::string& measurement, bool kl) {
  Cells names{measurement.empty() ? "ppl" : "ppl " + measurement, "±", "change"};
  if (kl) names.insert(names.end(), {"KL", "top-1"});
  return names;
}

// ppl, standard error, change, and KL and top-1 agreement where asked for; `measured` is the run's `quantized` or its
// `baseline`.
Cells figures(const Json& run, const Json& measured, const std::string& measurement, bool kl) {
  const Cells names = measurements_of(run);
  const auto i = static_cast<size_t>(std::find(names.begin(), names.end(), measurement) - names.begin());
  if (i == names.size()) return Cells(kl ? 5 : 3, kMissing);
  const Json &p = measured["perplexity"][i], &baseline = run["baseline"];
  const double ppl = p["ppl"];
  Cells cells{fmt::format("{:.4f}", ppl), fmt::format("{:.4f}", p["ppl_stderr"].get<double>()),
              baseline.is_null()
                  ? kMissing
                  : fmt::format("{:+.2f} %", 100 * (ppl / baseline["perplexity"][i]["ppl"].get<double>() - 1))};
  if (!kl) return cells;
  const bool known = p.contains("kl_mean");
  cells.push_back(known ? fmt::format("{:.4f}", p["kl_mean"].get<double>()) : kMissing);
  cells.push_back(known ? fmt::format("{:.2f} %", 100 * p["top1_agreement"].get<double>()) : kMissing);
  return cells;
}

double total_seconds(const Json& run) {
  double seconds = 0;
  for (const Json& stage : run["stages"]) seconds += stage["seconds"].get<double>();
  return seconds;
}

// Reasons that are not failures and say so themselves.
bool is_told(const std::string& reason) { return reason.starts_with("held by ") || reason.starts_with("no control: "); }

Cells failed_row(const Json& run, Cells row, size_t columns) {
  const std::string reason = run["failed"];
  row.push_back(is_told(reason) ? reason : "failed: " + reason);
  row.resize(columns, kMissing);
  return row;
}

// What is swept in the full-precision model too, i.e. all but the variables of quantization.
Cells full_precision_cells(const Json& run, const Cells& keys) {
  if (keys.empty()) return {"full precision"};
  Cells cells = swept_cells(run, keys);
  for (size_t i = 0; i < keys.size(); ++i) {
    if (!keys[i].starts_with("model") && !keys[i].starts_with("measure")) cells[i].clear();
  }
  cells[0] += cells[0].empty() ? "full precision" : " full precision";
  return cells;
}

size_t width(const std::string& text) {  // characters, not bytes
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

}  // namespace

namespace {

void append(Cells& row, const Cells& more) { row.insert(row.end(), more.begin(), more.end()); }

// Whether any run says what replication bought.
bool knows_eta(const std::vector<Json>& results) {
  return std::any_of(results.begin(), results.end(), [](const Json& run) {
    return finished(run) && run.contains("replication") && run["replication"].contains("eta");
  });
}

// eta, gain in bits.
Cells bought_cells(const Json& run) {
  const Json bought = run.value("replication", Json());
  if (!bought.is_object()) return {kMissing, kMissing};
  return {number(bought.value("eta", Json()), 2), number(bought.value("gain_bits", Json()), 3)};
}

// What is measured by generating tokens: its columns, and a run's cells, of what is measured in `quantized` or
// `baseline`.
struct Generated {
  bool text, speed;  // measured in any run

  explicit Generated(const std::vector<Json>& results)
      : text(any(results, "generation")), speed(any(results, "latency")) {}

  Cells columns() const {
    Cells names;
    if (text) append(names, {"same tokens", "agree", "repeated"});
    if (speed) append(names, {"tokens/s"});
    return names;
  }
  Cells cells(const Json& measured) const {
    Cells cells;
    const auto percent = [](const Json& share) {
      return share.is_null() ? kMissing : fmt::format("{:.1f} %", 100 * share.get<double>());
    };
    if (text) {
      const Json written = measured.value("generation", Json::object());
      append(cells, {number(written.value("same_tokens", Json()), 1), percent(written.value("agreement", Json())),
                     percent(written.value("repeated_4grams", Json()))});
    }
    if (speed) {
      const bool known = measured.contains("latency");
      append(cells, {known ? number(measured["latency"]["contexts"][0]["tokens_per_s"], 1) : kMissing});
    }
    return cells;
  }

 private:
  static bool any(const std::vector<Json>& results, const char* what) {
    return std::any_of(results.begin(), results.end(),
                       [&](const Json& run) { return finished(run) && run["quantized"].contains(what); });
  }
};

// One row of a table before its measurements: a full-precision model, a run, or the reason why there is none.
struct Line {
  const Json* run;
  const Json* measured;  // null for a failed run
  Cells first;           // what was swept, bits
  std::string seconds;
};

// Every full-precision model stands before its first run.
std::vector<Line> lines_of(const std::vector<Json>& results, const Cells& keys, bool replicated,
                           const Generated& generated) {
  std::vector<Line> lines;
  std::vector<Json> baselines;  // that have their line
  for (const Json& run : results) {
    Cells swept = swept_cells(run, keys);
    if (!finished(run)) {
      lines.push_back({&run, nullptr, std::move(swept), ""});
      continue;
    }
    if (const Json& full = run["baseline"];
        !full.is_null() && std::find(baselines.begin(), baselines.end(), full) == baselines.end()) {
      Line& line = lines.emplace_back(&run, &full, full_precision_cells(run, keys), kMissing);
      line.first.resize(line.first.size() + (replicated ? 4 : 2), kMissing);
      append(line.first, generated.cells(full));
      baselines.push_back(full);
    }
    swept.push_back(number(run["bits"]["with_parameters"], 4));
    swept.push_back(number(run["bits"].value("at_4096", Json()), 4));
    if (replicated) append(swept, bought_cells(run));
    append(swept, generated.cells(run["quantized"]));
    lines.push_back({&run, &run["quantized"], std::move(swept), fmt::format("{:.1f}", total_seconds(run))});
  }
  return lines;
}

}  // namespace

Table make_table(const std::vector<Json>& runs) {
  constexpr size_t kSideBySide = 2;  // more measurements would not fit a page: they stand below each other
  const std::vector<Json> results = with_means(runs);
  const Cells keys = swept_keys(results), measurements = all_measurements(results);
  const bool kl = knows_kl(results), below = measurements.size() > kSideBySide;
  Table table{.columns = short_names(keys), .rows = {}};
  if (table.columns.empty()) table.columns = {"model"};
  append(table.columns, {"bits/weight", "at 4096²"});
  const bool replicated = knows_eta(results);
  if (replicated) append(table.columns, {"eta", "gain, bits"});
  const Generated generated(results);
  append(table.columns, generated.columns());
  if (below) append(table.columns, {"measured on"});
  for (const std::string& name : below ? Cells{""} : measurements) append(table.columns, figure_names(name, kl));
  if (!below) table.columns.push_back("seconds");
  const std::vector<Line> lines = lines_of(results, keys, replicated, generated);
  const auto add = [&](const Line& line, const Cells& shown) {
    if (line.measured == nullptr) return table.rows.push_back(failed_row(*line.run, line.first, table.columns.size()));
    Cells row = line.first;
    if (below) row.push_back(shown[0]);
    for (const std::string& name : shown) append(row, figures(*line.run, *line.measured, name, kl));
    if (!below) row.push_back(line.seconds);
    table.rows.push_back(std::move(row));
  };
  if (!below) {
    for (const Line& line : lines) add(line, measurements);
  }
  for (const std::string& name : below ? measurements : Cells()) {
    for (const Line& line : lines) add(line, {name});
  }
  return table;
}

std::string Table::text() const {
  std::vector<size_t> widths;
  for (size_t c = 0; c < columns.size(); ++c) {
    widths.push_back(width(columns[c]));
    for (const Cells& row : rows)
      widths[c] = std::max(widths[c], row[c].starts_with("failed: ") || is_told(row[c]) ? 0 : width(row[c]));
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
