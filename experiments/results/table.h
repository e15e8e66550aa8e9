// The table of a sweep, made from results.json of its runs: on the screen, as summary.csv and as summary.md.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace experiments {

struct Table {
  std::vector<std::string> columns;
  std::vector<std::vector<std::string>> rows;

  std::string text() const;  // aligned, for the terminal
  std::string markdown() const;
  std::string csv() const;
};

// One row per run: what was swept, bits per weight here and of the same coding on linears of 4096 × 4096, of replicas
// eta and the gain in bits (experiments/efficiency.h); of measure.generation the mean number of tokens before the first
// that full precision does not write, the share of equal tokens, the share of repeated 4-grams; of measure.latency the
// tokens per second with the first context (all of it: latency_table.h); per measurement the perplexity with its
// standard error and change against full precision, KL divergence (mean, nats) and top-1 agreement if a run has them;
// seconds. More than two measurements stand below each other instead of side by side: one row per measurement and run,
// without seconds. Each full-precision model stands before its first run. A failed run shows its reason. A point that
// ran with several seeds ends with a row of their means, whose ± is the standard deviation over the seeds.
Table make_table(const std::vector<nlohmann::ordered_json>& results);

// Every swept key of any run, in the order of appearance, and shorter names for them: "bits", unless two end alike.
std::vector<std::string> swept_keys(const std::vector<nlohmann::ordered_json>& results);
std::vector<std::string> short_names(const std::vector<std::string>& keys);
// What was swept in a run, in the order of the keys; "quantized" without keys.
std::vector<std::string> swept_cells(const nlohmann::ordered_json& run, const std::vector<std::string>& keys);

// "quant.weight.bits=2 quant.weight.group_size=64"; "" for a file without a sweep.
std::string label(const std::vector<std::pair<std::string, std::string>>& swept);

}  // namespace experiments
