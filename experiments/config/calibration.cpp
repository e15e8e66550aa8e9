#include "experiments/config/calibration.h"

#include "core/error.h"

namespace experiments {

void CalibrationConfig::keys(core::Keys& k) {
  k.key("corpus", corpus, "registered name of the text (--list corpora), or a path to one");
  k.key("samples", samples, "windows of the text", {1, 1 << 20});
  k.key("seq_len", seq_len, "tokens of a window", {2, 1 << 20});
  k.key("sampling", sampling,
        "random: windows start where the seed says; sequential: the first windows, none overlapping",
        {"random", "sequential"});
  k.key("propagate_error", propagate_error,
        "measure inputs as the quantized blocks before leave them; false: as the full-precision model has them");
  k.key("batch_tokens", batch_tokens, "tokens that run through a block at once; at least one window", {1, 1 << 20});
  k.key("all_experts", all_experts,
        "experts are shown all tokens instead of those that the router sends them; the outputs of the block stay");
  k.key("min_token_fraction", min_token_fraction,
        "an expert that sees a smaller part of the tokens of the text falls back", {0, 1});
  k.key(
      "fallback", fallback,
      "of an expert that sees too few tokens; rtn: rounded to nearest; pooled: as if it saw the tokens of all experts "
      "of its block",
      {"rtn", "pooled"});
}

void CalibrationConfig::check() const {
  core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/train.", where("corpus"));
}

}  // namespace experiments
