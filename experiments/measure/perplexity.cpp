#include "experiments/measure/perplexity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/batches.h"
#include "core/error.h"
#include "core/nn/cross_entropy.h"

namespace experiments {

void PerplexityConfig::keys(core::Keys& k) {
  k.key("corpus", corpus, "registered name of a text (--list corpora), or a path to one");
  k.key("protocol", protocol, "how windows are cut and scored; gptq: non-overlapping windows, all positions", {"gptq"});
  k.key("seq_len", seq_len, "tokens of a window", {2, 1 << 20});
  k.key(
      "bos", bos,
      "auto: once if the tokenizer adds BOS, else none; once: before the text; window: over each window's first token",
      {"auto", "none", "once", "window"});
  k.key("windows", windows, "at most this many windows, from the start of the text; 0: all", {0, 1 << 30});
}

void PerplexityConfig::check() const {
  core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/test.", where("corpus"));
}

double Perplexity::nll() const {
  return std::accumulate(window_nll.begin(), window_nll.end(), 0.0) / static_cast<double>(tokens);
}

double Perplexity::ppl() const { return std::exp(nll()); }

double Perplexity::ppl_stderr() const {
  const auto n = static_cast<double>(window_nll.size());
  if (window_nll.size() < 2) return 0.0;
  const double per_window = static_cast<double>(tokens) / n, mean = nll();
  double squares = 0;
  for (const double sum : window_nll) squares += std::pow(sum / per_window - mean, 2);
  return ppl() * std::sqrt(squares / (n - 1) / n);
}

Perplexity unmeasured(const PerplexityConfig& config, const core::Windows& windows) {
  return {.corpus = windows.corpus,
          .protocol = config.protocol,
          .bos = windows.bos,
          .token_hash = windows.token_hash,
          .seq_len = windows.seq_len,
          .windows = windows.count,
          .tokens = windows.scored(),
          .window_nll = {}};
}

namespace {

// Token ids of windows [first, last): [B, T] int64.
at::Tensor batch_ids(const core::Windows& windows, int64_t first, int64_t last) {
  const int32_t* data = windows.ids.data() + first * windows.seq_len;
  const auto shape = std::vector<int64_t>{last - first, windows.seq_len};
  return at::from_blob(const_cast<int32_t*>(data), shape, at::kInt).to(at::kLong);
}

constexpr int64_t kLogits = 1 << 25;  // values of the logits that exist at a time, per thread

// Sums of -log p(token t | tokens before) per window. hidden: [B, T, D] after the last block, ids: [B, T].
std::vector<double> score(core::Model& model, const at::Tensor& hidden, const at::Tensor& ids) {
  const int64_t T = ids.size(1);
  const int64_t chunk = std::clamp<int64_t>(kLogits / model.shape().vocabulary, 64, 512);  // positions
  std::vector<double> sums;
  for (int64_t b = 0; b < ids.size(0); ++b) {
    double sum = 0;
    for (int64_t t = 0; t < T - 1; t += chunk) {
      const int64_t end = std::min(t + chunk, T - 1);
      const at::Tensor logits = model.logits(hidden[b].slice(0, t, end));             // [t, V]
      const at::Tensor target = ids[b].slice(0, t + 1, end + 1).to(logits.device());  // [t]
      const at::Tensor nll = core::cross_entropy(logits, target).cpu().contiguous();  // [t], nats
      const float* values = nll.const_data_ptr<float>();
      sum = std::accumulate(values, values + nll.numel(), sum);
    }
    sums.push_back(sum);
  }
  return sums;
}

// All windows in one row; refuses what is not finite.
std::vector<double> joined(const std::vector<std::vector<double>>& batches, const std::string& corpus) {
  std::vector<double> all;
  for (const std::vector<double>& batch : batches) {
    for (const double nll : batch) {
      core::require(std::isfinite(nll),
                    "{}: the loss of window {} is not finite. The quantized model is broken, or float16 overflows.",
                    corpus, all.size());
      all.push_back(nll);
    }
  }
  return all;
}

}  // namespace

std::vector<double> window_nll(core::Model& model, core::BlockSource& source, const core::Windows& windows,
                               int64_t batch_tokens, const std::function<void(int64_t, int64_t)>& on_step) {
  c10::InferenceMode inference;
  const int64_t per_batch = std::max<int64_t>(1, batch_tokens / windows.seq_len);
  const int64_t batches = (windows.count + per_batch - 1) / per_batch;
  const auto ids = [&](int64_t i) {
    return batch_ids(windows, i * per_batch, std::min((i + 1) * per_batch, windows.count));
  };
  core::HiddenStore hidden(batches);
  for (int64_t i = 0; i < batches; ++i) hidden.put(i, model.embed(ids(i).to(model.embedding().weight().device())));
  core::walk(model, source, {}, {.quantized = &hidden}, on_step);
  std::vector<std::vector<double>> sums(batches);
  core::for_each_batch(batches, per_batch * windows.seq_len * model.shape().width, [&](int64_t i) {
    sums[i] = score(model, hidden.get(i), ids(i));
    hidden.put(i, {});
  });
  return joined(sums, windows.corpus);
}

}  // namespace experiments
