#include "experiments/inputs/calibration_text.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/random.h"

namespace experiments {

namespace {

// First tokens of the windows.
std::vector<int64_t> starts(const CalibrationConfig& config, int64_t tokens, uint64_t seed) {
  std::vector<int64_t> all;
  core::Random random(seed, "", "calibration");
  for (int64_t i = 0; i < config.samples; ++i) {
    all.push_back(config.sampling == "random" ? random.below(tokens - config.seq_len + 1) : i * config.seq_len);
  }
  return all;
}

}  // namespace

core::Windows calibration_windows(const CalibrationConfig& config, const std::vector<int32_t>& ids,
                                  const core::Shape& shape, uint64_t seed) {
  core::require(config.seq_len <= shape.context,
                "{} is {}, longer than the context of the model ({} tokens). Lower it.", config.where("seq_len"),
                config.seq_len, shape.context);
  const auto tokens = static_cast<int64_t>(ids.size());
  const int64_t wanted = config.samples * config.seq_len;
  core::require(tokens >= wanted,
                "{}: {} has {} tokens, fewer than samples x seq_len = {} x {} = {}. Lower them or name a longer text.",
                config.where("corpus"), config.corpus, tokens, config.samples, config.seq_len, wanted);
  core::Windows windows;
  windows.corpus = config.corpus;
  windows.bos = "none";
  windows.seq_len = config.seq_len;
  windows.count = config.samples;
  for (const int64_t start : starts(config, tokens, seed))
    windows.ids.insert(windows.ids.end(), ids.begin() + start, ids.begin() + start + config.seq_len);
  core::require_in_embedding(config.corpus, windows.ids, shape.vocabulary);
  windows.token_hash = core::token_hash(windows.ids);
  return windows;
}

int64_t batch_count(int64_t windows, int64_t T, int64_t batch_tokens) {
  const int64_t per_batch = std::max<int64_t>(1, batch_tokens / T);
  return (windows + per_batch - 1) / per_batch;
}

core::HiddenStore embedded(core::Model& model, const std::vector<const core::Windows*>& texts, int64_t batch_tokens) {
  at::NoGradGuard no_gradient;
  int64_t batches = 0, next = 0;
  for (const core::Windows* text : texts) batches += batch_count(text->count, text->seq_len, batch_tokens);
  core::HiddenStore hidden(batches);
  for (const core::Windows* text : texts) {
    const int64_t T = text->seq_len, per_batch = std::max<int64_t>(1, batch_tokens / T);
    const at::Tensor ids =
        at::from_blob(const_cast<int32_t*>(text->ids.data()), {text->count, T}, at::kInt).to(at::kLong);
    for (int64_t first = 0; first < text->count; first += per_batch) {
      const at::Tensor batch = ids.slice(0, first, first + per_batch);  // [B, T]
      hidden.put(next++, model.embed(batch.to(model.embedding().device())));
    }
  }
  return hidden;
}

core::HiddenStore embedded(core::Model& model, const core::Windows& windows, int64_t batch_tokens) {
  return embedded(model, std::vector<const core::Windows*>{&windows}, batch_tokens);
}

}  // namespace experiments
