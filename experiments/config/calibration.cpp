#include "experiments/config/calibration.h"

#include "core/error.h"

namespace experiments {

void CalibrationConfig::keys(core::Keys& k) {
  k.key("corpus", corpus,
        "registered name of the text (--list corpora), a path to one, or generated: text that the full-precision model "
        "writes, drawn by the seed");
  k.key("samples", samples, "windows of the text", {1, 1 << 20});
  k.key("seq_len", seq_len, "tokens of a window", {2, 1 << 20});
  k.key("sampling", sampling,
        "random: windows start where the seed says; sequential: the first windows, none overlapping",
        {"random", "sequential"});
  k.key("propagate_error", propagate_error,
        "measure inputs as the quantized blocks before leave them; false: as the full-precision model has them");
  k.key("true_sequential", true_sequential,
        "within a block, measure the inputs of later linears after the earlier ones are quantized; auto: where targets "
        "are those of output",
        {"auto", "true", "false"});
  k.key("targets", targets,
        "what methods code; weight: the weight W; output: W + W E[(x_fp - x) x^T] (E[x x^T] + lambda 1)^-1, whose "
        "outputs on the inputs x of the quantized model are nearest to those that W has on the inputs x_fp of the "
        "full-precision model, tokens being equal; W where nothing measured the inputs; auto: output "
        "with methods that feed errors back (gptq, ldlq) at quant.weight.bits of 3 and fewer, where propagate_error is "
        "true and no strategy looks at further steps or blocks",
        {"auto", "weight", "output"});
  core::Key& share = k.key("target_share", target_share, "factor on what targets: output adds to the weight", {0, 1});
  core::Key& damp =
      k.key("target_damp", target_damp,
            "targets: output: lambda in the mean of the diagonal of E[x x^T]; the larger, the nearer to W",
            {0, 100, /*low_open=*/true});
  if (targets == "weight") {
    for (core::Key* key : {&share, &damp}) key->only_if_given();
  }
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
  k.key("imatrix", imatrix,
        "an importance matrix of llama.cpp (GGUF), whose mean squares of inputs stand in place of the measured ones, "
        "e.g. "
        "for quant.weight.range: importance; its path, absolute or below a data root; empty: they are measured")
      .only_if_given();
}

void CalibrationConfig::check() const {
  core::require(targets != "output" || propagate_error,
                "{}: output corrects what errors of earlier blocks do to the inputs, and propagate_error: false "
                "measures inputs without any. Leave one of them out.",
                where("targets"));
  core::require(
      true_sequential != "true" || propagate_error,
      "{}: it measures inputs behind quantized linears, propagate_error: false behind none. Leave one of them "
      "out.",
      where("true_sequential"));
  core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/train.", where("corpus"));
}

}  // namespace experiments
