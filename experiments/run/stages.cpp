#include "experiments/run/stages.h"

#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include "core/machine.h"
#include "experiments/analysis/experts.h"
#include "experiments/analysis/sensitivity.h"
#include "experiments/inputs/prefix.h"
#include "experiments/measure/measures.h"
#include "experiments/run/baseline.h"
#include "experiments/run/training.h"
#include "export/checkpoint.h"
#include "quant/qat/tune_blocks.h"
#include "quant/stage/apply_transforms.h"
#include "quant/stage/quantize.h"

namespace experiments {

namespace {

// Stages that are no more than the order of others, and what is only read and counted.
constexpr int kOrder = 1;

const std::vector<std::pair<std::string, int>>& table() {
  static const std::vector<std::pair<std::string, int>> versions{
      {"baseline", kBaselineVersion},
      {"prefix", kPrefixVersion},
      {"rank", kOrder},
      {"sensitivity", kSensitivityVersion},
      {"experts", kExpertsVersion},
      {"statistics", quant::StatisticsStore::kVersion},
      {"transform", quant::ApplyTransforms::kVersion},
      {"quantize", quant::Quantize::kVersion},
      {"replicate", replication::Replicate::kVersion},
      {"tune", quant::TuneBlocks::kVersion},
      {"average", replication::Average::kVersion},
      {"save", exports::Save::kVersion},
      {"single", kOrder},
      {"qat", kTrainingVersion},
      {"load", kOrder},
  };
  return versions;
}

}  // namespace

std::map<std::string, int> versions_of_blocks() {
  std::map<std::string, int> versions;
  for (const auto& [name, version] : table())
    TORCH_CHECK(versions.emplace(name, version).second, "two stages are called ", name);
  return versions;
}

std::map<std::string, int> known_versions() {
  std::map<std::string, int> versions = versions_of_blocks();
  for (const MeasureKind& kind : measure_kinds())
    TORCH_CHECK(versions.emplace(kind.name, kind.make()->version()).second, "a stage and a measure are called ",
                kind.name);
  return versions;
}

std::string outdated(const Row& row) {
  const std::map<std::string, int> known = known_versions();
  const auto reason = [&](const std::string& name, int was) {
    const auto now = known.find(name);
    if (now == known.end()) return fmt::format("its stage {} is no longer one", name);
    return now->second == was ? "" : fmt::format("{} was version {} and is {} now", name, was, now->second);
  };
  for (const StageRecord& stage : row.stages()) {
    if (std::string found = reason(stage.name, stage.version); !found.empty()) return found;
    for (const auto& [part, version] : stage.parts) {
      if (std::string found = reason(part, version); !found.empty()) return found;
    }
  }
  return "";
}

void StageLog::begin(const std::string& name) {
  const std::map<std::string, int> known = known_versions();
  const auto found = known.find(name);
  TORCH_CHECK(found != known.end(), "the stage ", name, " has no version in experiments/run/stages.cpp");
  records_.push_back({.name = name, .version = found->second});
  core::reset_peak_memory();
}

void StageLog::finish(double seconds, bool cached) {
  StageRecord& stage = records_.back();
  stage.seconds = seconds;
  stage.peak_rss_bytes = core::peak_memory_bytes();
  stage.cached = cached;
  spdlog::info("{}: {:.1f} s{}", stage.name, seconds, cached ? ", from the cache" : "");
}

void StageLog::add(const std::string& name, double seconds) {
  begin(name);
  records_.back().seconds = seconds;
}

void StageLog::uses(const std::string& part) {
  const std::map<std::string, int> known = known_versions();
  const auto found = known.find(part);
  TORCH_CHECK(found != known.end(), part, " has no version in experiments/run/stages.cpp");
  records_.back().parts[part] = found->second;
}

void StageLog::uses(const std::vector<core::Stage*>& stages) {
  for (const core::Stage* stage : stages) {
    uses(stage->name());
    TORCH_CHECK(records_.back().parts.at(stage->name()) == stage->version(), stage->name(), " runs as version ",
                stage->version(), ", which experiments/run/stages.cpp does not know");
  }
}

}  // namespace experiments
