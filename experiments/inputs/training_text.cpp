#include "experiments/inputs/training_text.h"

#include <algorithm>

#include "core/error.h"
#include "core/io/hash.h"

namespace experiments {

namespace {

// count windows of T tokens, spread evenly over ids from `first` on.
core::Windows spread(const std::vector<int32_t>& ids, int64_t first, int64_t T, int64_t count,
                     const std::string& corpus) {
  core::Windows windows;
  windows.corpus = corpus;
  windows.bos = "none";
  windows.seq_len = T;
  windows.count = count;
  const int64_t room = static_cast<int64_t>(ids.size()) - first - T;  // for the start of a window
  for (int64_t i = 0; i < count; ++i) {
    const auto start = ids.begin() + first + (count > 1 ? i * (room / (count - 1)) : 0);
    windows.ids.insert(windows.ids.end(), start, start + T);
  }
  windows.token_hash = core::token_hash(windows.ids);
  return windows;
}

}  // namespace

std::string TrainingText::token_hash() const {
  return core::hash_text(train.token_hash + (held_out ? held_out->token_hash : ""));
}

std::string training_corpus(const Spec& spec) {
  return spec.qat.corpus.empty() ? spec.calibration.corpus : spec.qat.corpus;
}

int64_t training_length(const Spec& spec) { return spec.qat.seq_len > 0 ? spec.qat.seq_len : spec.calibration.seq_len; }

double held_out_of_calibration(const Spec& spec) {
  return spec.qat.reserves() && training_corpus(spec) == spec.calibration.corpus ? spec.qat.held_out : 0;
}

std::vector<int32_t> beginning_of(const std::vector<int32_t>& ids, double share) {
  const auto kept = static_cast<int64_t>(static_cast<double>(ids.size()) * (1 - share));
  return {ids.begin(), ids.begin() + kept};
}

TrainingText training_text(const Spec& spec, const std::vector<int32_t>& ids, const std::vector<int32_t>* held_out,
                           const core::Shape& shape) {
  const quant::QatConfig& config = spec.qat;
  const int64_t T = training_length(spec);
  core::require(T >= 2 && T <= shape.context, "{} is {}; the model's context is 2 to {} tokens. Change it.",
                config.where("seq_len"), T, shape.context);
  const std::string corpus = training_corpus(spec);
  const double share = held_out == nullptr ? config.held_out : 0;
  const std::vector<int32_t> kept = beginning_of(ids, share);
  const int64_t windows = static_cast<int64_t>(kept.size()) / T;
  core::require(windows >= config.batch,
                "{}: {} has {} tokens to train on, which is {} windows of {}, fewer than qat.batch {}. Lower them or "
                "name a longer text.",
                config.where("corpus"), corpus, kept.size(), windows, T, config.batch);
  TrainingText text{.train = spread(kept, 0, T, windows, corpus), .held_out = {}};
  core::require_in_embedding(text.train.corpus, text.train.ids, shape.vocabulary);
  if (!config.examines()) return text;
  const std::vector<int32_t>& other = held_out == nullptr ? ids : *held_out;
  const int64_t first = held_out == nullptr ? static_cast<int64_t>(kept.size()) : 0;
  const int64_t there = (static_cast<int64_t>(other.size()) - first) / T;
  core::require(there > 0, "{}: the held-out text has {} tokens, fewer than a window of {}. Hold out more of it.",
                config.where(held_out == nullptr ? "held_out" : "held_out_corpus"), other.size() - first, T);
  text.held_out = spread(other, first, T, std::min(there, config.held_out_windows),
                         held_out == nullptr ? corpus : config.held_out_corpus);
  core::require_in_embedding(text.held_out->corpus, text.held_out->ids, shape.vocabulary);
  return text;
}

}  // namespace experiments
