#include "experiments/stages.h"

#include <fmt/core.h>

#include <algorithm>

#include "experiments/measure/generation.h"
#include "experiments/measure/latency.h"
#include "experiments/sensitivity.h"
#include "experiments/training.h"
#include "quant/quantize.h"

namespace experiments {

const std::vector<std::pair<std::string, int>>& stage_versions() {
  static const std::vector<std::pair<std::string, int>> versions{
      {"baseline", kBaselineVersion},          {"load", 1},
      {"quantize", quant::Quantize::kVersion}, {"qat", kTrainingVersion},
      {"single", kSensitivityVersion},         {"measure", kMeasureVersion},
      {"generation", kGenerationVersion},      {"latency", kLatencyVersion}};
  return versions;
}

std::string outdated(const Json& results) {
  for (const Json& stage : results.value("stages", Json::array())) {
    if (!stage.is_object()) return "its stages cannot be read";
    const std::string name = stage.value("name", "");
    const int was = stage.value("version", 0);
    const auto& known = stage_versions();
    const auto now = std::find_if(known.begin(), known.end(), [&](const auto& entry) { return entry.first == name; });
    if (now == known.end()) return fmt::format("its stage {} is no longer one", name);
    if (now->second != was) return fmt::format("{} was version {} and is {} now", name, was, now->second);
  }
  return "";
}

}  // namespace experiments
