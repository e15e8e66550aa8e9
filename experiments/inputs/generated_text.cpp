#include "experiments/inputs/generated_text.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/context.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/progress.h"
#include "core/sampling.h"
#include "models/registry.h"

namespace experiments {

namespace {

constexpr int64_t kTogether = 32;  // sequences

}  // namespace

void require_resident(const Spec& spec, const ModelFiles& files, const std::string& where) {
  core::require(residency_of(spec, weights_of(spec, files)) == exports::Residency::resident,
                "{}: generated is written with all weights in memory, and this model is streamed. Set model.residency: "
                "resident, or name a text.",
                where);
}

std::vector<int32_t> generated_ids(core::Model& model, const core::Tokenizer& tokenizer, int64_t sequences,
                                   int64_t length, uint64_t seed, const std::string& purpose, bool quiet) {
  const c10::InferenceMode inference;
  const int64_t known = std::min(tokenizer.vocabulary_size(), model.shape().vocabulary);
  std::vector<int32_t> all(sequences * length);
  core::Progress bar("writing text", quiet);
  for (int64_t first = 0; first < sequences; first += kTogether) {
    const int64_t count = std::min(kTogether, sequences - first);
    std::vector<core::Random> random;
    for (int64_t n = first; n < first + count; ++n) random.emplace_back(seed, purpose, "generated text", n);
    core::Context context(model, length);
    std::vector<bool> begins(count, true);  // the next token is the first of a text
    at::Tensor logits;                      // [count, V]
    for (int64_t t = 0; t < length; ++t) {
      core::honour_interrupt();
      const at::Tensor next = at::empty({count, 1}, at::kLong);
      for (int64_t i = 0; i < count; ++i) {
        int32_t* sequence = all.data() + (first + i) * length;
        if (begins[i]) {
          begins[i] = false;
          sequence[t] = tokenizer.bos_id() ? *tokenizer.bos_id() : static_cast<int32_t>(random[i].below(known));
        } else {
          const at::Tensor row = logits[i].narrow(0, 0, known).contiguous();
          sequence[t] = static_cast<int32_t>(
              core::sample({row.const_data_ptr<float>(), static_cast<size_t>(known)}, {.temperature = 1}, random[i]));
          begins[i] = tokenizer.ends_text(sequence[t]);
        }
        next.mutable_data_ptr<int64_t>()[i] = sequence[t];
      }
      if (t + 1 < length) logits = context.read(next).to(at::kFloat).cpu();
    }
    bar.update(first + count, sequences);
  }
  return all;
}

std::vector<int32_t> generated_ids(const Spec& spec, const ModelFiles& files, int64_t sequences, int64_t length,
                                   const std::string& purpose) {
  const auto model = models::build(files.config);
  core::load(*model, weights_of(spec, files));
  return generated_ids(*model, *files.tokenizer, sequences, length, static_cast<uint64_t>(spec.seed), purpose,
                       spec.quiet);
}

}  // namespace experiments
