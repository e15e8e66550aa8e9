// From a model and a configuration to a quantized checkpoint: one walk over the blocks with all stages that touch
// weights.
#pragma once

#include <string>
#include <vector>

#include "experiments/run/ranking.h"
#include "experiments/run/stages.h"
#include "experiments/run/training.h"
#include "quant/stage/quantize.h"

namespace experiments {

struct QuantizedBlocks {
  std::vector<quant::ModuleReport> modules;
  std::vector<TrainingPart> training;  // of blocks
};

// Writes `checkpoint`; blocks that an interrupted run has finished are not done again. log: is told which stages of a
// walk ran.
QuantizedBlocks quantize_model(const Run& run, const Ranking& ranking, Resources& resources,
                               const std::string& checkpoint, StageLog& log);

}  // namespace experiments
