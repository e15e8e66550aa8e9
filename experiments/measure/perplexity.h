// Perplexity by two published protocols (core/text/windows.h), and how far a model is from the full-precision one.
#pragma once

#include <optional>
#include <string>

#include "core/text/windows.h"
#include "experiments/measure/measure.h"
#include "experiments/measure/score.h"

namespace experiments {

struct PerplexityConfig : Measure {
  std::string corpus;
  std::string protocol = core::kGptq;
  int64_t seq_len = 0;
  std::string bos = "auto";
  int64_t windows = 0;
  std::string windows_from = core::kFirst;

  void keys(core::Keys& k) override;
  void check() const override;

  int version() const override { return 3; }
  Prepared prepare(Texts& texts) const override;
  std::vector<Column> columns() const override;
  ItemFile items() const override;
  std::string label(const Json& values) const override;
  std::vector<std::string> identity() const override {
    return {"corpus", "protocol", "seq_len", "windows", "windows_from"};
  }

  core::Windows windows_of(Texts& texts) const;
  int64_t length() const;  // tokens of a window: seq_len, or the protocol's published one
};

struct Perplexity {
  std::string corpus, protocol, bos, token_hash, windows_from = core::kFirst;
  int64_t seq_len = 0;
  int64_t windows = 0;  // N
  int64_t tokens = 0;   // scored positions
  Scores scores;
  std::optional<Scores> of_float_inputs = {};  // of the same model, where the runtime rounds inputs
  std::optional<Scores> noisy = {};            // of the full-precision model with noise behind every block

  double nll() const;         // mean per scored position, nats
  double ppl() const;         // exp(nll)
  double ppl_stderr() const;  // ppl × standard error of the window means; 0 for a single window
  // ppl × standard error of the mean over positions taken as independent: what llama.cpp prints behind its ±.
  double ppl_stderr_tokens() const;

  double kl_mean() const;         // per scored position of finite KL, nats; with scores.distance only
  double kl_of_inputs() const;    // what rounded inputs add to it; with of_float_inputs only
  double top1_agreement() const;  // share of scored positions; with scores.distance only
};

// Everything about the measurement but its outcome: `scores` are empty.
Perplexity unmeasured(const PerplexityConfig& config, const core::Windows& windows);

// The perplexity of the first 1, 2, … N windows, ten a line, as llama.cpp shows it while it runs: "[1]5.1234,[2]…".
std::string running_estimate(const Perplexity& p);

}  // namespace experiments
