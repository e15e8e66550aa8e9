#include "experiments/measure/perplexity.h"

#include <fmt/format.h>

#include <cmath>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/progress.h"
#include "experiments/measure/measures.h"
#include "quant/grids/draws.h"

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
  k.key("windows", windows, "at most this many windows; 0: all", {0, 1 << 30});
  k.key("windows_from", windows_from,
        "which windows those are; first: from the start of the text; spread: evenly over all of it",
        {core::kFirst, core::kSpread});
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

namespace {

// Per position whose KL is finite.
template <typename Value>
double mean_over(const std::vector<Value>& sums, const Distance& distance, int64_t tokens) {
  return sum(sums) / static_cast<double>(std::max<int64_t>(1, tokens - distance.not_finite));
}

}  // namespace

double Perplexity::kl_mean() const {
  const Distance& distance = scores.distance.value();
  return mean_over(distance.window_kl, distance, tokens);
}

double Perplexity::kl_of_inputs() const {
  const Distance& floats = of_float_inputs.value().distance.value();
  return kl_mean() - mean_over(floats.window_kl, floats, tokens);
}

double Perplexity::top1_agreement() const {
  const Distance& distance = scores.distance.value();
  return mean_over(distance.window_top1, distance, tokens);
}

Perplexity unmeasured(const PerplexityConfig& config, const core::Windows& windows) {
  return {.corpus = windows.corpus,
          .protocol = config.protocol,
          .bos = windows.bos,
          .token_hash = windows.token_hash,
          .windows_from = windows.windows_from,
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

// ---- the measure ----

core::Windows PerplexityConfig::windows_of(Texts& texts) const {
  const core::Shape& shape = texts.shape();
  core::require(length() <= shape.context, "{} is {}, longer than the context of {} ({} tokens). Lower it.",
                where("seq_len"), length(), texts.model_directory(), shape.context);
  const core::Corpus text = core::find_corpus(corpus);
  const core::WindowOptions options{.protocol = protocol,
                                    .seq_len = length(),
                                    .bos = bos,
                                    .windows = windows,
                                    .windows_from = windows_from,
                                    .embedding_rows = shape.vocabulary};
  return core::make_windows(text, texts.tokens(text), texts.tokenizer(), options);
}

namespace {

constexpr const char* kStates = "final_states";  // of the full-precision model, kept for the KL divergence

Json values_of(const Perplexity& p) {
  Json json = {{"corpus", p.corpus},
               {"protocol", p.protocol},
               {"bos", p.bos},
               {"seq_len", p.seq_len},
               {"windows", p.windows},
               {"tokens", p.tokens},
               {"token_hash", p.token_hash},
               {"nll", p.nll()},
               {"ppl", p.ppl()},
               {"ppl_stderr", p.ppl_stderr()},
               {"ppl_stderr_tokens", p.ppl_stderr_tokens()}};
  if (p.windows_from != core::kFirst) json["windows_from"] = p.windows_from;
  if (const auto& distance = p.scores.distance) {
    json["kl_mean"] = p.kl_mean();
    json["kl_median"] = distance->median;
    json["kl_p90"] = distance->p90;
    json["kl_p99"] = distance->p99;
    json["kl_p999"] = distance->p999;
    json["kl_max"] = distance->max;
    json["kl_not_finite"] = distance->not_finite;
    if (p.of_float_inputs) json["kl_of_inputs"] = p.kl_of_inputs();
    json["top1_agreement"] = p.top1_agreement();
    json["change_of_p"] = {{"mean", distance->change_mean}, {"rms", distance->change_rms}};
    json["by_top1_probability"] = Json::array();
    for (const Bucket& bucket : distance->buckets) {
      json["by_top1_probability"].push_back({{"from", bucket.from},
                                             {"to", bucket.to},
                                             {"positions", bucket.positions},
                                             {"kl_mean", bucket.kl},
                                             {"top1_agreement", bucket.agreement}});
    }
  }
  if (p.noisy) {
    const Distance& floor = p.noisy->distance.value();
    json["noise_floor"] = {{"kl_mean", mean_over(floor.window_kl, floor, p.tokens)},
                           {"kl_median", floor.median},
                           {"kl_p99", floor.p99},
                           {"top1_agreement", mean_over(floor.window_top1, floor, p.tokens)}};
  }
  return json;
}

// One row of windows.csv per window.
std::vector<std::vector<std::string>> rows_of(const Perplexity& p) {
  std::vector<std::vector<std::string>> rows;
  const auto& distance = p.scores.distance;
  for (size_t n = 0; n < p.scores.window_nll.size(); ++n) {
    rows.push_back({p.corpus, p.protocol, core::csv_cell(static_cast<int64_t>(n)), core::csv_cell(p.tokens / p.windows),
                    core::csv_cell(p.scores.window_nll[n]), distance ? core::csv_cell(distance->window_kl[n]) : "",
                    distance ? core::csv_cell(distance->window_top1[n]) : ""});
  }
  return rows;
}

Found found(const Perplexity& p) {
  Found all{.values = values_of(p), .items = rows_of(p)};
  if (p.protocol != core::kLlamaCpp) return all;  // what llama.cpp's tool prints
  all.log_file = fmt::format("{} ({}), running estimate:\n{}", p.corpus, p.protocol, running_estimate(p));
  all.log = {fmt::format("{} ({}): final estimate: PPL = {:.4f} +/- {:.5f}", p.corpus, p.protocol, p.ppl(),
                         p.ppl_stderr_tokens())};
  return all;
}

// Hidden states times 1 + 2⁻⁹ ε, ε of a normal distribution, drawn for every step and batch: about what bfloat16 rounds
// away (its relative step is 2⁻⁸).
at::Tensor with_noise(int64_t step, int64_t batch, const at::Tensor& hidden) {
  const at::Tensor noise = quant::normal_draw({.path = fmt::format("step {}", step), .seed = 0}, "noise floor",
                                              static_cast<uint64_t>(batch), hidden.numel(), 1);
  return (hidden * (1 + noise.view(hidden.sizes()).to(hidden.device()) * 0x1p-9)).to(hidden.scalar_type());
}

Found measured(const PerplexityConfig& config, const core::Windows& windows, const Subject& subject) {
  const FinalStates::Shape shape{windows.count, windows.scored_per_window(), subject.model.shape().width,
                                 subject.dtype};
  std::optional<FinalStates> kept, states;
  std::optional<FinalLayers> layers;
  std::optional<Reference> reference;
  if (subject.settings.kl && subject.keep) kept.emplace(subject.keep(kStates), shape, FinalStates::Open::create);
  if (subject.settings.kl && subject.full != nullptr) {
    states.emplace(subject.full->file(kStates), shape, FinalStates::Open::read);
    layers.emplace(subject.model, subject.full->weights);
    reference.emplace(*states, *layers);
  }
  const auto scored = [&](const std::string& what, const Runnable& run, bool noisy = false) {
    core::Progress progress(what + " on " + config.corpus, subject.quiet);
    ScoreOptions options{.batch_tokens = subject.settings.batch_tokens,
                         .reference = reference ? &*reference : nullptr,
                         .keep = kept ? &*kept : nullptr,
                         .on_step = [&](int64_t done, int64_t total) { progress.update(done, total); }};
    if (noisy) options.behind_step = with_noise;
    return score(run.model, run.source, windows, options);
  };
  const bool is_full = static_cast<bool>(subject.keep);
  Perplexity p = unmeasured(config, windows);
  p.scores = scored(is_full ? "full precision" : "perplexity", {subject.model, subject.source});
  if (reference && subject.float_inputs) p.of_float_inputs = scored("inputs in floats", subject.float_inputs());
  if (kept && subject.settings.noise_floor) {  // against what was just kept
    kept.reset();
    states.emplace(subject.keep(kStates), shape, FinalStates::Open::read);
    layers.emplace(subject.model);
    reference.emplace(*states, *layers);
    p.noisy = scored("noise floor", {subject.model, subject.source}, /*noisy=*/true);
  }
  return found(p);
}

}  // namespace

Prepared PerplexityConfig::prepare(Texts& texts) const {
  const auto windows = std::make_shared<const core::Windows>(windows_of(texts));
  return {windows->token_hash,
          [config = *this, windows](const Subject& subject) { return measured(config, *windows, subject); }};
}

std::vector<Column> PerplexityConfig::columns() const {
  return {{.heading = "ppl", .path = "ppl"},
          {.heading = "±", .path = "ppl_stderr", .deviation_of = "ppl"},
          {.heading = "change", .path = "ppl", .digits = 2, .unit = Column::Unit::change},
          {.heading = "KL", .path = "kl_mean", .optional = true, .is_distance = true},
          {.heading = "KL of inputs", .path = "kl_of_inputs", .optional = true},
          {.heading = "top-1",
           .path = "top1_agreement",
           .digits = 2,
           .unit = Column::Unit::percent,
           .less_is_better = false,
           .optional = true}};
}

ItemFile PerplexityConfig::items() const {
  return {.name = "windows.csv",
          .columns = {"corpus", "protocol", "window", "tokens", "nll_sum", "kl_sum", "top1_agree"},
          .count = "windows",
          .tokens = "tokens",
          .quantities = {{.column = "nll_sum", .name = "NLL", .exponential = "ppl"},
                         {.column = "kl_sum", .name = "KL"},
                         {.column = "top1_agree", .name = "top-1", .less_is_better = false}}};
}

std::string PerplexityConfig::label(const Json& values) const {
  const std::string from = values.value("windows_from", "");
  return fmt::format("{} ({} {}{}{})", values.at("corpus").get<std::string>(), values.at("protocol").get<std::string>(),
                     values.at("seq_len").get<int64_t>(), from.empty() ? "" : " ", from);
}

MeasureKind make_perplexity() {
  return {.help = "perplexities to measure, each on one corpus by one protocol", .is_list = true, .make = [] {
            return PerplexityConfig{};
          }};
}

}  // namespace experiments
