// Training at the end of quantization: of a run's finished but untrained checkpoint it makes the one that is measured.
#pragma once

#include <optional>
#include <string>

#include "experiments/inputs.h"

namespace experiments {

inline constexpr int kTrainingVersion = 1;  // bumped by hand when trained values change

// What results.json says about it.
struct TrainingReport {
  int64_t steps = 0, kept_step = 0;
  std::string stopped;                               // why before the last step; empty: it was not
  std::string objective;                             // kl, ce, hidden
  int64_t tokens = 0;                                // seen by the steps
  int64_t trained_parameters = 0, trained_bits = 0;  // bits: as stored
  int64_t floated_zeros = 0;                         // linears whose integer zero points became float ones
  std::optional<double> held_out_before, held_out_after;
};

// <directory>/untrained, where the quantized model lies until it is trained.
std::string untrained_directory(const std::string& directory);

// Trains <directory>/untrained end to end and writes <directory>/checkpoint and qat_log.csv. Goes on with a training
// that was interrupted; one that is finished is not done again.
TrainingReport train(const Spec& spec, Inputs& inputs, const ModelFiles& files, const std::string& directory);

}  // namespace experiments
