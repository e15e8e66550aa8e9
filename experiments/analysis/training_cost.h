// How long training will take, before it begins: the multiply-accumulates of its steps, at the speed of runs of the
// same file that are finished, else at that of a matrix product.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "experiments/inputs/model_files.h"
#include "experiments/inputs/training_text.h"
#include "experiments/results/row.h"

namespace experiments {

// Multiply-accumulates that training takes: forward and backward passes of its steps, looks at held-out text, and what
// the full-precision model is asked for. 0 without training. model: follows the plan of the run.
double training_macs(const Spec& spec, const TrainingText& text, core::Model& model);

// The training of several runs.
class TrainingCost {
 public:
  // text: what is trained on. plan: of the run. finished: its results; none while it is not finished.
  void add(const Spec& spec, const ModelFiles& files, const TrainingText& text, const core::Plan& plan,
           const std::optional<Row>& finished);
  // "training: 14 runs, about 1.6 h, by the speed of 3 finished ones"; none when nothing is to be trained.
  std::vector<std::string> lines() const;

 private:
  int64_t runs_ = 0, finished_ = 0, width_ = 0, rows_ = 0;
  double to_do_ = 0;  // multiply-accumulates
  double done_ = 0, seconds_ = 0;
};

}  // namespace experiments
