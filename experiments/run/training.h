// Training of quantization parameters inside a run: of blocks while they are quantized, of the whole model afterwards.
#pragma once

#include <string>
#include <vector>

#include "experiments/json.h"
#include "experiments/run/run.h"
#include "quant/qat/tune_blocks.h"

namespace experiments {

inline constexpr int kTrainingVersion = 2;  // bumped by hand when trained values change

// One training: of a block, or of the model.
struct TrainingPart {
  std::string name;       // "block 3", "model"
  std::string objective;  // block_mse, block_token_mse, kl, ce, hidden
  quant::Trained trained;
  int64_t tokens = 0;                   // seen by its steps
  int64_t values = 0, stored_bits = 0;  // trained numbers, and bits as they are stored
  int64_t floated_zeros = 0;            // linears whose integer zero points became float ones
};

// What results.json says; total_bits: that the model stores.
Json training_json(const std::vector<TrainingPart>& parts, int64_t total_bits);

// qat_log.csv.
std::string training_csv(const std::vector<TrainingPart>& parts);

// The format that training needs when zero points become floats.
quant::FormatFactory format_factory();

double seconds_of(const std::vector<TrainingPart>& parts);

// Of the blocks that the stage has trained.
std::vector<TrainingPart> parts_of(const quant::TuneBlocks& blocks, const Spec& spec);

// Trains <directory>/untrained of the run end to end and writes <directory>/checkpoint. spec: the run's, with the bits
// of each expert. Goes on with a training that was
// interrupted; one that is finished is not done again.
TrainingPart train_model(const Run& run, const Spec& spec);

// Says on the log what came of it.
void report(const std::vector<TrainingPart>& parts, int64_t total_bits);

}  // namespace experiments
