// What a model writes, beside what the full-precision model writes: likelihood can look fine while generation is broken
// (seen with rotations at 2 bits, arXiv 2603.04162). Prompts from a corpus are continued greedily; the first of them,
// and what follows it, is kept as text.
#pragma once

#include <string>
#include <vector>

#include "core/model.h"
#include "core/sampling.h"
#include "core/text/tokenizer.h"
#include "experiments/measure/measure.h"

namespace experiments {

struct GenerationConfig : Measure {
  std::string corpus;
  int64_t prompts = 64;
  int64_t prompt_tokens = 64;
  int64_t new_tokens = 64;
  double temperature = 0, top_p = 1;

  void keys(core::Keys& k) override;
  void check() const override;

  int version() const override { return 4; }
  bool decodes() const override { return true; }
  bool draws() const override { return temperature > 0; }
  Prepared prepare(Texts& texts) const override;
  std::vector<Column> columns() const override;
};

// Prompts of equal length from a text. Axes: N prompts, T = prompt_tokens.
struct Prompts {
  std::string corpus;        // name
  int64_t count = 0;         // N
  int64_t length = 0;        // T
  std::vector<int32_t> ids;  // [N, T]
  std::string token_hash;    // of ids
};

// Spread evenly over the text whose ids are given; if the tokenizer says that texts begin with BOS, every prompt does.
// UserError: the text is too short, the context of the model does not hold prompt and continuation.
Prompts make_prompts(const GenerationConfig& config, const std::vector<int32_t>& ids, const core::Tokenizer& tokenizer,
                     const core::Shape& shape);

// Continuations: [N, M] token ids, row-major, M = new_tokens.
struct Continuations {
  int64_t new_tokens = 0;
  std::vector<int32_t> ids;

  double repeated_4grams() const;  // share of runs of 4 tokens that their continuation has had before; 0 for M < 4
  std::vector<double> repeated_by_prompt() const;  // [N] the same of every continuation
};

// The model continues all prompts, also behind an end-of-text token: all continuations are equally long. Its blocks
// must be loaded. Tokens that are drawn are drawn with numbers of (seed, prompt) alone: two models that agree draw the
// same.
Continuations continuations(core::Model& model, const Prompts& prompts, int64_t new_tokens,
                            const core::Sampling& sampling = {}, uint64_t seed = 0);

// One model's continuations beside those of the full-precision model.
struct Likeness {
  double same_tokens;             // before the first one that differs, mean over the prompts; M when none differs
  std::vector<double> agreement;  // [M] share of prompts whose token at this place is the same
  std::vector<double> same_by_prompt = {}, agreement_by_prompt = {};  // [N] of every prompt

  double mean_agreement() const;
};
Likeness likeness(const Continuations& full, const Continuations& other);

}  // namespace experiments
