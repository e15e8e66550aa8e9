// The loop of training: AdamW on parameters whose learning rates are relative to their sizes, a warm-up and a cosine,
// clipped gradients, looks at held-out text, a saved state to go on from.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "quant/qat/config.h"
#include "quant/qat/training.h"

namespace quant {

// What is to be learned.
class TrainingObjective {
 public:
  virtual ~TrainingObjective() = default;
  // The loss on the text of a step; its gradient is added to the leaves'.
  virtual double backward(int64_t step) = 0;
  // The loss on the held-out text, without gradients; none without such a text.
  virtual std::optional<double> held_out_loss() = 0;
};

// A line of qat_log.csv: the iterate before the step of this number, and the step.
struct LogRow {
  int64_t step;
  std::optional<double> loss;      // on the step's text; none behind the last step
  std::optional<double> held_out;  // where it was looked at
  double lr, grad_norm, seconds;   // relative; before clipping; since the beginning
};

struct Trained {
  std::vector<LogRow> log = {};
  int64_t steps = 0;                                      // taken
  int64_t kept = 0;                                       // the iterate that stays: after so many steps
  std::optional<double> held_out_before, held_out_after;  // of the untrained one, and of the kept one
  std::string stopped = {};                               // why before the last step; empty: it was not
};

struct Progress {
  std::string file;                                    // where the state is kept; empty: nowhere
  std::function<void(int64_t, int64_t)> on_step = {};  // is told (done, total)
};

// The rate of step i of n, relative to the largest: (i + 1) / warmup, then (1 + cos) / 2 down to 0.
double rate(const QatConfig& config, int64_t step);

// Trains the leaves of `training`, which then have the kept values. Goes on where the file was saved, with the same
// bits. A loss or gradient that is not finite ends training; the best iterate, without held-out text the last one whose
// loss was finite, stays.
Trained optimize(const QatConfig& config, Training& training, TrainingObjective& objective, const Progress& progress);

// For a file, and back.
std::string to_text(const Trained& trained);
Trained trained_from_text(const std::string& text);

}  // namespace quant
