// Running a model over all windows of a text, block by block, and scoring every position that the protocol asks for.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "core/text/windows.h"
#include "core/walk.h"
#include "experiments/measure/final_states.h"

namespace experiments {

// How far a model is from the full-precision one, at the scored positions.
struct Distance {
  std::vector<double> window_kl;     // [N] Σ KL(full ‖ model), nats
  std::vector<int64_t> window_top1;  // [N] positions where both put the same token first
  double p99 = 0, max = 0;           // of the KL of single positions; p99 is interpolated between positions
};

struct Scores {
  std::vector<double> window_nll;      // [N] Σ −ln p(token), nats
  std::vector<double> window_squares;  // [N] Σ (ln p(token))²
  std::optional<Distance> distance = {};
};

// The full-precision model, for a distance from it.
struct Reference {
  const FinalStates& states;
  const FinalLayers& layers;
};

struct ScoreOptions {
  int64_t batch_tokens = 1024;                         // tokens that run through a block at once; at least one window
  const Reference* reference = nullptr;                // none: no distance
  FinalStates* keep = nullptr;                         // where the model's own final states go, if anywhere
  std::function<void(int64_t, int64_t)> on_step = {};  // is told (done, total) of the walk
};

// Error when a window's loss is not finite.
Scores score(core::Model& model, core::BlockSource& source, const core::Windows& windows,
             const ScoreOptions& options = {});

// The value below which a share of `fraction` lies, interpolated linearly between neighbours; 0 of nothing.
double quantile(std::vector<float> values, double fraction);

}  // namespace experiments
