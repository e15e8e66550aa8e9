#include "experiments/seed_set.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "experiments/run_point.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

// Everything that a run's numbers depend on but its seed, as text; "" when its configuration cannot be read any more.
std::string all_but_seed(const std::string& directory, const Json& results) {
  try {
    Spec spec;
    core::bind(core::read_yaml(directory + "/resolved.yaml"), spec);
    spec.seed = 0;
    std::string text = core::to_yaml(core::to_node(spec, /*identity_only=*/true));
    for (const char* input : {"model", "tokenizer"}) text += results["hashes"][input].dump();
    for (const Json& stage : results["stages"]) text += stage["name"].dump() + stage["version"].dump();
    for (const Json& p : results["quantized"]["perplexity"]) text += p["token_hash"].dump();
    return text;
  } catch (const core::UserError&) {
    return "";
  }
}

}  // namespace

std::map<int64_t, std::string> seed_set(const std::string& directory) {
  const Json results = finished_results(directory);
  core::require(!results.is_null(), "{}: no results.json of a finished run here. Give a directory runs/<name>/<id>.",
                directory);
  const std::string same = all_but_seed(directory, results);
  std::map<int64_t, std::string> set{{results.value("seed", int64_t{0}), directory}};
  if (same.empty()) return set;
  const fs::path self = fs::canonical(directory);
  for (const auto& entry : fs::directory_iterator(self.parent_path())) {
    if (!entry.is_directory() || entry.path() == self) continue;
    const Json other = finished_results(entry.path());
    if (other.is_null() || all_but_seed(entry.path(), other) != same) continue;
    set.emplace(other.value("seed", int64_t{0}), entry.path());
  }
  return set;
}

}  // namespace experiments
