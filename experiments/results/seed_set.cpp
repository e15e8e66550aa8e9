#include "experiments/results/seed_set.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "experiments/config/spec.h"
#include "experiments/results/row.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

// Everything that a run's numbers depend on but its seed, as text; "" when its configuration cannot be read any more.
std::string all_but_seed(const std::string& directory, const Row& row) {
  try {
    Spec spec;
    core::bind(core::read_yaml(directory + "/resolved.yaml"), spec);
    spec.seed = 0;
    std::string text = core::to_yaml(core::to_node(spec, /*identity_only=*/true));
    for (const char* input : {"model", "tokenizer"}) text += row["hashes"].value(input, Json()).dump();
    for (const StageRecord& stage : row.stages()) {
      text += fmt::format("{} {}\n", stage.name, stage.version);
      for (const auto& [part, version] : stage.parts) text += fmt::format("{} {}\n", part, version);
    }
    for (const auto& [measure, found] : row.quantized()) {
      for (const Json& values : found) text += measure + values.value("token_hash", Json()).dump();
    }
    return text;
  } catch (const core::UserError&) {
    return "";
  }
}

}  // namespace

std::map<int64_t, std::string> seed_set(const std::string& directory) {
  const std::optional<Row> row = finished_results(directory);
  core::require(row.has_value(), "{}: no results.json of a finished run here. Give a directory runs/<name>/<id>.",
                directory);
  const std::string same = all_but_seed(directory, *row);
  std::map<int64_t, std::string> set{{row->seed(), directory}};
  if (same.empty()) return set;
  const fs::path self = fs::canonical(directory);
  for (const auto& entry : fs::directory_iterator(self.parent_path())) {
    if (!entry.is_directory() || entry.path() == self) continue;
    const std::optional<Row> other = finished_results(entry.path());
    if (!other || all_but_seed(entry.path(), *other) != same) continue;
    set.emplace(other->seed(), entry.path());
  }
  return set;
}

}  // namespace experiments
