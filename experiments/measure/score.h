// Running a model over all windows of a text, block by block, and scoring every position that the protocol asks for.
#pragma once

#include <functional>
#include <optional>
#include <vector>

#include "core/text/windows.h"
#include "core/walk.h"
#include "experiments/measure/final_states.h"

namespace experiments {

// Scored positions at which the largest probability of the full-precision model lies in [from, to), the last bucket
// with its end: undecided positions make up the mean of KL, the decided ones show the damage.
struct Bucket {
  double from, to;
  int64_t positions = 0;
  double kl = 0;         // mean, nats
  double agreement = 0;  // share of positions where both models put the same token first
};

// How far a model is from the full-precision one, at the scored positions. Positions whose KL is not finite are counted
// and enter nothing else.
struct Distance {
  std::vector<double> window_kl;     // [N] Σ KL(full ‖ model), nats
  std::vector<int64_t> window_top1;  // [N] positions where both put the same token first
  int64_t not_finite = 0;
  // Of the KL of single positions; quantiles are interpolated between positions.
  double median = 0, p90 = 0, p99 = 0, p999 = 0, max = 0;
  std::vector<Bucket> buckets;
  double change_mean = 0, change_rms = 0;  // of the probability of the token that came, model − full precision
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
  int64_t batch_tokens = 1024;           // tokens that run through a block at once; at least one window
  const Reference* reference = nullptr;  // none: no distance
  FinalStates* keep = nullptr;           // where the model's own final states go, if anywhere
  // Is given the hidden states [B, T, D] of every batch behind every step of the plan, and returns those that go on.
  std::function<at::Tensor(int64_t step, int64_t batch, const at::Tensor& hidden)> behind_step = {};
  std::function<void(int64_t, int64_t)> on_step = {};  // is told (done, total) of the walk
};

// Positions whose logits exist at a time, per thread: 2^24 values of one model at most, but 64 positions, and 512 at
// most.
int64_t positions_at_a_time(const core::Shape& shape);

// Error when a window's loss is not finite.
Scores score(core::Model& model, core::BlockSource& source, const core::Windows& windows,
             const ScoreOptions& options = {});

// The value below which a share of `fraction` lies, interpolated linearly between neighbours; 0 of nothing.
double quantile(std::vector<float> values, double fraction);

}  // namespace experiments
