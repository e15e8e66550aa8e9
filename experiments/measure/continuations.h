// The log-likelihood of what follows a context, for many contexts and continuations at once: a context is read once,
// whatever follows it, and nothing is padded.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "core/walk.h"

namespace experiments {

// A context and what may follow it, token ids. Neither is empty.
struct Continued {
  std::vector<int32_t> context;
  std::vector<std::vector<int32_t>> continuations;

  int64_t tokens() const;  // that are read: all but the last one of every continuation
};

struct Likelihood {
  double sum = 0;      // Σ ln p(token), nats
  bool greedy = true;  // every token of the continuation is the likeliest one
};

struct ContinuationOptions {
  int64_t batch_tokens = 1024;  // tokens that run through a block at once; at least one context with all behind it
  std::function<void(int64_t, int64_t)> on_step = {};  // is told (done, total) of the walk
};

// One per continuation, in the order of the contexts. Error when a sum is not finite.
std::vector<Likelihood> likelihoods(core::Model& model, core::BlockSource& source, const std::vector<Continued>& texts,
                                    const ContinuationOptions& options = {});

}  // namespace experiments
