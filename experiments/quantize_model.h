// From a model and a configuration to a quantized checkpoint: one walk over the blocks with all stages that touch
// weights.
#pragma once

#include <string>
#include <vector>

#include "experiments/inputs.h"
#include "experiments/training.h"
#include "quant/quantize.h"

namespace experiments {

struct QuantizedBlocks {
  std::vector<quant::ModuleReport> modules;
  std::vector<TrainingPart> training;  // of blocks
};

// Writes `checkpoint`; blocks that an interrupted run has finished are not done again. directory: of the run, for
// sensitivity.csv and progress. calibration: the text on which inputs are measured; null: nothing is measured.
QuantizedBlocks quantize_model(const Spec& spec, Inputs& inputs, const ModelFiles& files, const std::string& directory,
                               const std::string& checkpoint, const core::Windows* calibration);

// experts.csv and coactivation.csv. asked: as configured; spec: with the bits of experts given.
void write_experts(const Spec& asked, const Spec& spec, Inputs& inputs, const ModelFiles& files,
                   const std::string& directory, const core::Windows& text);

}  // namespace experiments
