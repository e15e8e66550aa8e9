#include "experiments/results/latency_table.h"

#include <fmt/format.h>

namespace experiments {

using Json = nlohmann::ordered_json;
using Cells = std::vector<std::string>;

namespace {

constexpr const char* kMissing = "–";

std::string spread(const Json& entry, const std::string& name, int digits) {
  return fmt::format("{:.{}f} ± {:.{}f}", entry[name].get<double>(), digits, entry[name + "_sd"].get<double>(), digits);
}

std::string megabytes(const Json& bytes) { return fmt::format("{:.1f}", 1e-6 * bytes.get<double>()); }

Cells row_of(const Json& run, const Json& at, const Cells& keys) {
  const Json &latency = run["quantized"]["latency"], &bits = run["bits"]["with_parameters"];
  Cells row = swept_cells(run, keys);
  for (std::string cell :
       {bits.is_null() ? kMissing : fmt::format("{:.4f}", bits.get<double>()),
        std::to_string(at["context"].get<int64_t>()), spread(at, "ttft_ms", 2), spread(at, "prompt_tokens_per_s", 0),
        spread(at, "tokens_per_s", 1), megabytes(latency["weight_bytes_per_token"]),
        fmt::format("{:.1f} %", 100 * at["bandwidth_fraction"].get<double>()), megabytes(latency["peak_rss_bytes"]),
        megabytes(latency["file_bytes"]), fmt::format("{:.2f}", latency["compression"].get<double>())})
    row.push_back(std::move(cell));
  return row;
}

}  // namespace

Table latency_table(const std::vector<Json>& results) {
  const Cells keys = swept_keys(results);
  Table table{.columns = short_names(keys), .rows = {}};
  if (table.columns.empty()) table.columns = {"model"};
  for (const char* name : {"bits/weight", "context", "TTFT ms", "prompt tokens/s", "tokens/s", "MB/token",
                           "of bandwidth", "peak MB", "file MB", "compression"})
    table.columns.push_back(name);
  for (const Json& run : results) {
    if (run.contains("failed") || !run["quantized"].contains("latency")) continue;
    for (const Json& at : run["quantized"]["latency"]["contexts"]) table.rows.push_back(row_of(run, at, keys));
  }
  return table;
}

}  // namespace experiments
