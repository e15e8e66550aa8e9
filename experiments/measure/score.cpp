#include "experiments/measure/score.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/batches.h"
#include "core/error.h"
#include "core/nn/cross_entropy.h"

namespace experiments {

namespace {

// Token ids of windows [first, last): [B, T] int64.
at::Tensor batch_ids(const core::Windows& windows, int64_t first, int64_t last) {
  const int32_t* data = windows.ids.data() + first * windows.seq_len;
  const auto shape = std::vector<int64_t>{last - first, windows.seq_len};
  return at::from_blob(const_cast<int32_t*>(data), shape, at::kInt).to(at::kLong);
}

constexpr int64_t kLogits = 1 << 24;  // values of one model's logits that exist at a time, per thread

// The sums of one window.
struct Sums {
  double nll = 0, squares = 0, kl = 0;
  int64_t top1 = 0;

  // nll, kl: [t] float32; same_top: [t] bool.
  void add(const at::Tensor& nll_rows) {
    const at::Tensor rows = nll_rows.cpu().contiguous();
    const float* values = rows.const_data_ptr<float>();
    for (int64_t i = 0; i < rows.numel(); ++i) {
      nll += values[i];
      squares += static_cast<double>(values[i]) * values[i];
    }
  }
  void add(const core::Divergence& rows, float* kl_of_positions) {
    add(rows.nll);
    const at::Tensor divergences = rows.kl.cpu().contiguous();
    const float* values = divergences.const_data_ptr<float>();
    for (int64_t i = 0; i < divergences.numel(); ++i) kl += values[i];
    std::copy(values, values + divergences.numel(), kl_of_positions);
    top1 += rows.same_top.sum().item<int64_t>();
  }
};

// hidden: [T, D] of window n after the last block, ids: [T]. Logits exist for a chunk of positions at a time.
// kl: [S], the divergence of every scored position, written when there is a reference.
Sums score_window(core::Model& model, const at::Tensor& hidden, const at::Tensor& ids, int64_t n, int64_t first,
                  const Reference* reference, float* kl) {
  const int64_t T = ids.size(0);
  const int64_t chunk = std::clamp<int64_t>(kLogits / model.shape().vocabulary, 64, 512);  // positions
  Sums sums;
  for (int64_t t = first; t < T - 1; t += chunk) {
    const int64_t end = std::min(t + chunk, T - 1);
    const at::Tensor logits = model.logits(hidden.slice(0, t, end));             // [t, V]
    const at::Tensor target = ids.slice(0, t + 1, end + 1).to(logits.device());  // [t]
    if (reference == nullptr) {
      sums.add(core::cross_entropy(logits, target));
      continue;
    }
    const at::Tensor states = reference->states.read(n, t - first, end - first).to(logits.device());  // [t, D]
    sums.add(core::divergence(reference->layers.logits(states), logits, target), kl + (t - first));
  }
  return sums;
}

// All windows in one row; refuses what is not finite.
Scores joined(const std::vector<Sums>& windows, const std::string& corpus) {
  Scores scores;
  for (const Sums& sums : windows) {
    core::require(std::isfinite(sums.nll) && std::isfinite(sums.kl),
                  "{}: the loss of window {} is not finite. The quantized model is broken, or float16 overflows.",
                  corpus, scores.window_nll.size());
    scores.window_nll.push_back(sums.nll);
    scores.window_squares.push_back(sums.squares);
  }
  return scores;
}

Distance distance_of(const std::vector<Sums>& windows, std::vector<float> kl) {
  Distance distance;
  for (const Sums& sums : windows) {
    distance.window_kl.push_back(sums.kl);
    distance.window_top1.push_back(sums.top1);
  }
  distance.max = *std::max_element(kl.begin(), kl.end());
  distance.p99 = quantile(std::move(kl), 0.99);
  return distance;
}

}  // namespace

double quantile(std::vector<float> values, double fraction) {
  if (values.empty()) return 0.0;
  const double place = fraction * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(place);
  const auto at = values.begin() + static_cast<std::ptrdiff_t>(below);
  std::nth_element(values.begin(), at, values.end());
  const double low = *at, high = at + 1 == values.end() ? low : *std::min_element(at + 1, values.end());
  return low + (place - static_cast<double>(below)) * (high - low);
}

Scores score(core::Model& model, core::BlockSource& source, const core::Windows& windows, const ScoreOptions& options) {
  c10::InferenceMode inference;
  const int64_t per_batch = std::max<int64_t>(1, options.batch_tokens / windows.seq_len);
  const int64_t batches = (windows.count + per_batch - 1) / per_batch, scored = windows.scored_per_window();
  const auto ids = [&](int64_t i) {
    return batch_ids(windows, i * per_batch, std::min((i + 1) * per_batch, windows.count));
  };
  core::HiddenStore hidden(batches);
  for (int64_t i = 0; i < batches; ++i) hidden.put(i, model.embed(ids(i).to(model.embedding().device())));
  core::walk(model, source, {}, {.quantized = &hidden}, options.on_step);
  std::vector<Sums> sums(windows.count);
  std::vector<float> kl(options.reference == nullptr ? 0 : windows.scored());
  core::for_each_batch(batches, per_batch * windows.seq_len * model.shape().width, [&](int64_t i) {
    const at::Tensor batch = hidden.get(i), tokens = ids(i);
    for (int64_t b = 0; b < tokens.size(0); ++b) {
      const int64_t n = i * per_batch + b;
      if (options.keep != nullptr) options.keep->write(n, batch[b].slice(0, windows.first, windows.seq_len - 1));
      sums[n] = score_window(model, batch[b], tokens[b], n, windows.first, options.reference,
                             kl.empty() ? nullptr : kl.data() + n * scored);
    }
    hidden.put(i, {});
  });
  Scores scores = joined(sums, windows.corpus);
  if (options.reference != nullptr) scores.distance = distance_of(sums, std::move(kl));
  return scores;
}

}  // namespace experiments
