// results.json: what a run found, with everything needed to trust and repeat it. Field names are stable;
// docs/results.md describes them. A row of a table is read from here and from nowhere else.
#pragma once

#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "core/model.h"
#include "experiments/baseline.h"
#include "experiments/efficiency.h"
#include "experiments/measure/latency.h"
#include "experiments/results/bill.h"
#include "experiments/training.h"
#include "quant/quantize.h"

namespace experiments {

using Json = nlohmann::ordered_json;

// One stage of a run as results.json lists it.
struct StageRecord {
  std::string name;
  int version;
  double seconds;
  int64_t peak_rss_bytes;  // most resident memory during the stage
  bool cached;
};

// A finished run, before it is written.
struct Findings {
  std::string id;
  const Spec* spec;
  std::vector<std::pair<std::string, std::string>> swept;
  std::string config_hash, model_hash, tokenizer_hash;
  std::string calibration_tokens = {};                   // their hash; empty: nothing was calibrated
  std::optional<std::vector<Perplexity>> baseline = {};  // none for a model without full precision: our own checkpoints
  std::vector<Perplexity> quantized = {};
  std::optional<Prompts> prompts = {};  // of measure.generation, if that was asked for
  std::optional<Continuations> written_by_full = {}, written = {};
  std::optional<Latency> latency = {};
  int64_t file_bytes = 0;  // of the tensor files of the model that was measured
  std::vector<StageRecord> stages = {};
  std::vector<quant::ModuleReport> modules = {};
  std::optional<Efficiency> efficiency = {};  // of replication
  Bill bill = {};
  Json runtime = {{"linears", "dense"}};  // how the quantized model ran (experiments/runtime.h)
  std::string training_tokens = {};       // their hash; empty: nothing was trained
  std::vector<TrainingPart> training = {};
};

// bytes_on_disk: of the checkpoint, 0 when it was discarded.
Json results_json(const Findings& findings, int64_t bytes_on_disk);

std::string modules_csv(const std::vector<quant::ModuleReport>& modules);
std::string windows_csv(const Findings& findings);  // one row per window and measurement

}  // namespace experiments
