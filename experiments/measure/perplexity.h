// Perplexity by the `gptq` protocol: non-overlapping windows, every position after the first is scored.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/text/windows.h"
#include "core/walk.h"

namespace experiments {

inline constexpr int kMeasureVersion = 1;  // bumped by hand when the numbers change

struct PerplexityConfig : core::Section {
  std::string corpus;
  std::string protocol = "gptq";
  int64_t seq_len = 2048;
  std::string bos = "auto";
  int64_t windows = 0;

  void keys(core::Keys& k) override;
  void check() const override;
};

struct Perplexity {
  std::string corpus, protocol, bos, token_hash;
  int64_t seq_len = 0;
  int64_t windows = 0;             // N
  int64_t tokens = 0;              // scored positions
  std::vector<double> window_nll;  // [N] sum of negative log likelihoods per window, nats

  double nll() const;         // mean per scored position, nats
  double ppl() const;         // exp(nll)
  double ppl_stderr() const;  // ppl × standard error of the window means; 0 for a single window
};

// Everything about the measurement but its outcome: `window_nll` is empty.
Perplexity unmeasured(const PerplexityConfig& config, const core::Windows& windows);

// Runs all windows through the model, block by block. batch_tokens: tokens that run through a block at once (at least
// one window). `on_step(done, total)` is told the progress. Error when a window's loss is not finite.
std::vector<double> window_nll(core::Model& model, core::BlockSource& source, const core::Windows& windows,
                               int64_t batch_tokens, const std::function<void(int64_t, int64_t)>& on_step = {});

}  // namespace experiments
