#include "experiments/measure/perplexity.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/error.h"

namespace experiments {

void PerplexityConfig::keys(core::Keys& k) {
  k.key("corpus", corpus, "registered name of a text (--list corpora), or a path to one");
  k.key("protocol", protocol,
        "how windows are scored; gptq: all positions; llama.cpp: the second half of each, as its perplexity tool does",
        {core::kGptq, core::kLlamaCpp});
  k.key("seq_len", seq_len, "tokens of a window; 0: the protocol's own, 2048 for gptq and 512 for llama.cpp",
        {0, 1 << 20});
  k.key(
      "bos", bos,
      "auto: what the protocol does if the tokenizer adds BOS (gptq: once, llama.cpp: window), else none; once: before "
      "the text; window: over each window's first token",
      {"auto", "none", "once", "window"});
  k.key("windows", windows, "at most this many windows, from the start of the text; 0: all", {0, 1 << 30});
}

void PerplexityConfig::check() const {
  core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/test.", where("corpus"));
  const int64_t least = protocol == core::kLlamaCpp ? 3 : 2;
  core::require(length() >= least, "{} is {}: nothing is left to predict. Choose at least {}, or 0.", where("seq_len"),
                seq_len, least);
}

int64_t PerplexityConfig::length() const {
  if (seq_len > 0) return seq_len;
  return protocol == core::kLlamaCpp ? 512 : 2048;
}

namespace {

template <typename Value>
double sum(const std::vector<Value>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0);
}

}  // namespace

double Perplexity::nll() const { return sum(scores.window_nll) / static_cast<double>(tokens); }

double Perplexity::ppl() const { return std::exp(nll()); }

double Perplexity::ppl_stderr() const {
  const auto n = static_cast<double>(scores.window_nll.size());
  if (n < 2) return 0.0;
  const double per_window = static_cast<double>(tokens) / n, mean = nll();
  double squares = 0;
  for (const double nll : scores.window_nll) squares += std::pow(nll / per_window - mean, 2);
  return ppl() * std::sqrt(squares / (n - 1) / n);
}

double Perplexity::ppl_stderr_tokens() const {
  const auto n = static_cast<double>(tokens);
  const double variance = sum(scores.window_squares) / n - std::pow(nll(), 2);
  return n > 1 && variance > 0 ? ppl() * std::sqrt(variance / (n - 1)) : 0.0;
}

double Perplexity::kl_mean() const { return sum(scores.distance.value().window_kl) / static_cast<double>(tokens); }

double Perplexity::top1_agreement() const {
  return sum(scores.distance.value().window_top1) / static_cast<double>(tokens);
}

Perplexity unmeasured(const PerplexityConfig& config, const core::Windows& windows) {
  return {.corpus = windows.corpus,
          .protocol = config.protocol,
          .bos = windows.bos,
          .token_hash = windows.token_hash,
          .seq_len = windows.seq_len,
          .windows = windows.count,
          .tokens = windows.scored(),
          .scores = {}};
}

std::string running_estimate(const Perplexity& p) {
  const double per_window = static_cast<double>(p.tokens) / static_cast<double>(p.windows);
  std::string text;
  double nll = 0;
  for (size_t n = 1; n <= p.scores.window_nll.size(); ++n) {
    nll += p.scores.window_nll[n - 1];
    text += fmt::format("[{}]{:.4f},", n, std::exp(nll / (static_cast<double>(n) * per_window)));
    if (n % 10 == 0 || n == p.scores.window_nll.size()) text += "\n";
  }
  return text;
}

}  // namespace experiments
