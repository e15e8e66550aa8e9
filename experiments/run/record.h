// What a run leaves behind: results.json with everything needed to trust and repeat it, and its tables. Field names are
// stable; docs/results.md describes them. A row of a table is read from results.json (results/row.h) and from nowhere
// else.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "experiments/analysis/efficiency.h"
#include "experiments/measure/bill.h"
#include "experiments/results/row.h"
#include "experiments/run/run.h"
#include "experiments/run/training.h"
#include "quant/stage/quantize.h"

namespace experiments {

// A finished run, before it is written.
struct RunRecord {
  std::string model_hash = {};
  std::vector<std::optional<Found>> baseline = {};        // per measurement of the run; none where it was not measured
  std::vector<std::optional<Found>> quantized = {};       // likewise
  std::vector<int64_t> prefix = {};                       // tokens in front of every text
  std::vector<std::optional<Found>> without_prefix = {};  // where there are some: full precision without them
  std::vector<StageRecord> stages = {};
  std::vector<quant::ModuleReport> modules = {};
  std::optional<Efficiency> efficiency = {};  // of replication
  Bill bill = {};
  Json runtime = {{"linears", "dense"}};  // how the quantized model ran (experiments/run/runtime.h)
  std::vector<TrainingPart> training = {};
};

// bytes_on_disk: of the checkpoint, 0 when it was discarded.
Json results_json(const Run& run, const RunRecord& record, int64_t bytes_on_disk);

std::string modules_csv(const std::vector<quant::ModuleReport>& modules);
// Name and content of every file of items: windows.csv, with one row per window and measurement.
std::vector<std::pair<std::string, std::string>> item_files(const Run& run, const RunRecord& record);

}  // namespace experiments
