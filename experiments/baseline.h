// The full-precision model, measured once: every result stands beside it. Kept in <out>/.cache under a key that names
// all that the numbers depend on, so that no sweep point and no later run measures it again, and no stale number is
// ever read.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "experiments/inputs.h"
#include "experiments/measure/final_states.h"

namespace experiments {

inline constexpr int kBaselineVersion = 2;  // bumped by hand when the numbers change

struct Baseline {
  std::vector<Perplexity> perplexity;                      // in the order of measure.perplexity
  std::vector<std::shared_ptr<const FinalStates>> states;  // of each; null unless measure.kl
  std::optional<Continuations> written;                    // of measure.generation, if that is asked for
  bool cached = true;                                      // nothing had to be computed
};

Baseline baseline(const Spec& spec, Inputs& inputs);

}  // namespace experiments
