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

// What is known of a scored position beside its loss.
struct Position {
  float kl;      // nats
  float top;     // largest probability of the full-precision model
  float change;  // of the probability of the token that came
  bool same;     // both models put the same token first
};

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
  void add(const core::Divergence& rows, Position* positions) {
    add(rows.nll);
    const auto on_cpu = [](const at::Tensor& t) { return t.cpu().contiguous(); };
    const at::Tensor all[] = {on_cpu(rows.kl), on_cpu(rows.full_top), on_cpu(rows.full_target), on_cpu(rows.nll)};
    const at::Tensor same = on_cpu(rows.same_top);
    const auto *divergence = all[0].const_data_ptr<float>(), *top = all[1].const_data_ptr<float>(),
               *of_full = all[2].const_data_ptr<float>(), *loss = all[3].const_data_ptr<float>();
    for (int64_t i = 0; i < same.numel(); ++i) {
      positions[i] = {divergence[i], top[i], std::exp(-loss[i]) - of_full[i], same.const_data_ptr<bool>()[i]};
      if (!std::isfinite(divergence[i])) continue;
      kl += divergence[i];
      top1 += positions[i].same ? 1 : 0;
    }
  }
};

// hidden: [T, D] of window n after the last block, ids: [T]. Logits exist for a chunk of positions at a time.
// positions: [S], written when there is a reference.
Sums score_window(core::Model& model, const at::Tensor& hidden, const at::Tensor& ids, int64_t n, int64_t first,
                  const Reference* reference, Position* positions) {
  const int64_t T = ids.size(0);
  const int64_t chunk = positions_at_a_time(model.shape());
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
    sums.add(core::divergence(reference->layers.logits(states), logits, target), positions + (t - first));
  }
  return sums;
}

// All windows in one row; refuses what is not finite.
Scores joined(const std::vector<Sums>& windows, const std::string& corpus) {
  Scores scores;
  for (const Sums& sums : windows) {
    core::require(std::isfinite(sums.nll),
                  "{}: the loss of window {} is not finite. The quantized model is broken, or float16 overflows.",
                  corpus, scores.window_nll.size());
    scores.window_nll.push_back(sums.nll);
    scores.window_squares.push_back(sums.squares);
  }
  return scores;
}

Distance distance_of(const std::vector<Sums>& windows, const std::vector<Position>& positions) {
  Distance distance{
      .window_kl = {}, .window_top1 = {}, .buckets = {{0, 0.25}, {0.25, 0.5}, {0.5, 0.75}, {0.75, 0.95}, {0.95, 1}}};
  for (const Sums& sums : windows) {
    distance.window_kl.push_back(sums.kl);
    distance.window_top1.push_back(sums.top1);
  }
  std::vector<float> kl;
  double squares = 0;
  for (const Position& position : positions) {
    if (!std::isfinite(position.kl)) {
      ++distance.not_finite;
      continue;
    }
    kl.push_back(position.kl);
    distance.change_mean += position.change;
    squares += static_cast<double>(position.change) * position.change;
    auto bucket = distance.buckets.begin();
    while (bucket + 1 != distance.buckets.end() && position.top >= bucket->to) ++bucket;
    ++bucket->positions;
    bucket->kl += position.kl;
    bucket->agreement += position.same ? 1 : 0;
  }
  for (Bucket& bucket : distance.buckets) {
    const auto count = static_cast<double>(std::max<int64_t>(1, bucket.positions));
    bucket.kl /= count;
    bucket.agreement /= count;
  }
  const auto count = static_cast<double>(std::max<size_t>(1, kl.size()));
  distance.change_mean /= count;
  distance.change_rms = std::sqrt(squares / count);
  if (!kl.empty()) distance.max = *std::max_element(kl.begin(), kl.end());
  distance.median = quantile(kl, 0.5);
  distance.p90 = quantile(kl, 0.9);
  distance.p99 = quantile(kl, 0.99);
  distance.p999 = quantile(std::move(kl), 0.999);
  return distance;
}

}  // namespace

int64_t positions_at_a_time(const core::Shape& shape) {
  constexpr int64_t kLogits = 1 << 24;
  return std::clamp<int64_t>(kLogits / shape.vocabulary, 64, 512);
}

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
  core::walk(model, source, {}, {.quantized = &hidden}, [&](int64_t done, int64_t total) {
    for (int64_t i = 0; options.behind_step && i < batches; ++i)
      hidden.put(i, options.behind_step(done - 1, i, hidden.get(i)));
    if (options.on_step) options.on_step(done, total);
  });
  std::vector<Sums> sums(windows.count);
  std::vector<Position> positions(options.reference == nullptr ? 0 : windows.scored());
  core::for_each_batch(batches, per_batch * windows.seq_len * model.shape().width, [&](int64_t i) {
    const at::Tensor batch = hidden.get(i), tokens = ids(i);
    for (int64_t b = 0; b < tokens.size(0); ++b) {
      const int64_t n = i * per_batch + b;
      if (options.keep != nullptr) options.keep->write(n, batch[b].slice(0, windows.first, windows.seq_len - 1));
      sums[n] = score_window(model, batch[b], tokens[b], n, windows.first, options.reference,
                             positions.empty() ? nullptr : positions.data() + n * scored);
    }
    hidden.put(i, {});
  });
  Scores scores = joined(sums, windows.corpus);
  if (options.reference != nullptr) scores.distance = distance_of(sums, positions);
  return scores;
}

}  // namespace experiments
