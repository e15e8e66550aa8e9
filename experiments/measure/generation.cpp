#include "experiments/measure/generation.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <set>

#include "core/context.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/io/files.h"
#include "core/text/windows.h"
#include "experiments/measure/bootstrap.h"
#include "experiments/measure/measures.h"

namespace experiments {

void GenerationConfig::keys(core::Keys& k) {
  k.key("corpus", corpus, "registered name of the text that the prompts are from (--list corpora), or a path to one");
  k.key("prompts", prompts, "how many, spread evenly over the text", {1, 1 << 20});
  k.key("prompt_tokens", prompt_tokens, "tokens of a prompt", {1, 1 << 20});
  k.key("new_tokens", new_tokens, "tokens that continue it", {1, 1 << 20});
  core::Key& heat =
      k.key("temperature", temperature,
            "0: the likeliest token each time; above: drawn, logits divided by it, with numbers of the seed "
            "and the prompt that are the same for every model",
            {0, 100});
  core::Key& share =
      k.key("top_p", top_p, "temperature above 0: draw among the likeliest tokens of so much probability",
            {0, 1, /*low_open=*/true});
  if (temperature == 0) {
    for (core::Key* key : {&heat, &share}) key->only_if_given();
  }
}

void GenerationConfig::check() const {
  core::require(!corpus.empty(), "{}: corpus is missing. Name a text, e.g. tiny/test.", where(""));
  core::require(temperature > 0 || !given("top_p"),
                "{}: nothing is drawn at temperature 0. Set a temperature, or remove it.", where("top_p"));
}

Prompts make_prompts(const GenerationConfig& config, const std::vector<int32_t>& ids, const core::Tokenizer& tokenizer,
                     const core::Shape& shape) {
  core::require_context(shape, config.prompt_tokens + config.new_tokens, config.where("new_tokens"));
  const auto tokens = static_cast<int64_t>(ids.size());
  core::require(tokens >= config.prompts * config.prompt_tokens,
                "{}: {} has {} tokens, fewer than prompts x prompt_tokens = {} x {}. Lower them or name a longer text.",
                config.where("corpus"), config.corpus, tokens, config.prompts, config.prompt_tokens);
  Prompts prompts{
      .corpus = config.corpus, .count = config.prompts, .length = config.prompt_tokens, .ids = {}, .token_hash = {}};
  const int64_t windows = tokens / config.prompt_tokens;
  for (int64_t n = 0; n < config.prompts; ++n) {
    const auto first = ids.begin() + n * windows / config.prompts * config.prompt_tokens;
    prompts.ids.insert(prompts.ids.end(), first, first + config.prompt_tokens);
    if (tokenizer.adds_bos() && tokenizer.bos_id()) *(prompts.ids.end() - config.prompt_tokens) = *tokenizer.bos_id();
  }
  core::require_in_embedding(config.corpus, prompts.ids, shape.vocabulary);
  prompts.token_hash = core::token_hash(prompts.ids);
  return prompts;
}

namespace {

double mean_of(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

std::vector<double> Continuations::repeated_by_prompt() const {
  std::vector<double> shares;
  for (auto row = ids.begin(); row != ids.end(); row += new_tokens) {
    std::set<std::array<int32_t, 4>> seen;
    int64_t repeated = 0;
    for (int64_t t = 0; t + 4 <= new_tokens; ++t)
      repeated += seen.insert({row[t], row[t + 1], row[t + 2], row[t + 3]}).second ? 0 : 1;
    shares.push_back(static_cast<double>(repeated) / static_cast<double>(std::max<int64_t>(1, new_tokens - 3)));
  }
  return shares;
}

double Continuations::repeated_4grams() const { return ids.empty() ? 0.0 : mean_of(repeated_by_prompt()); }

namespace {

// The tokens behind the prompts, [B, T] -> [B, M] int64, each drawn with the numbers of its prompt. first: prompt of
// the first row.
at::Tensor drawn(core::Context& context, const at::Tensor& prompts, int64_t first, int64_t tokens,
                 const core::Sampling& sampling, uint64_t seed) {
  const int64_t rows = prompts.size(0);
  std::vector<core::Random> random;
  for (int64_t i = 0; i < rows; ++i) random.emplace_back(seed, "", "generation", static_cast<uint64_t>(first + i));
  const at::Tensor all = at::empty({rows, tokens}, at::kLong);
  at::Tensor next = prompts;
  for (int64_t t = 0; t < tokens; ++t) {
    core::honour_interrupt();
    const at::Tensor logits = context.read(next).to(at::kFloat).cpu().contiguous();  // [B, V]
    next = at::empty({rows, 1}, at::kLong);
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = logits.const_data_ptr<float>() + i * logits.size(1);
      next[i][0] = core::sample({row, static_cast<size_t>(logits.size(1))}, sampling, random[i]);
    }
    all.narrow(1, t, 1).copy_(next);
  }
  return all;
}

}  // namespace

Continuations continuations(core::Model& model, const Prompts& prompts, int64_t new_tokens,
                            const core::Sampling& sampling, uint64_t seed) {
  constexpr int64_t kTogether = 64;  // prompts; fixed, because the bits of a product follow the shape of its batch
  const c10::InferenceMode inference;
  Continuations all{.new_tokens = new_tokens, .ids = {}};
  const at::Tensor ids =
      at::from_blob(const_cast<int32_t*>(prompts.ids.data()), {prompts.count, prompts.length}, at::kInt).to(at::kLong);
  for (int64_t first = 0; first < prompts.count; first += kTogether) {
    core::Context context(model, prompts.length + new_tokens);
    const at::Tensor batch = ids.slice(0, first, first + kTogether);
    const at::Tensor tokens = sampling.temperature == 0 ? core::continue_greedily(context, batch, new_tokens)
                                                        : drawn(context, batch, first, new_tokens, sampling, seed);
    const at::Tensor made = tokens.to(at::kInt).contiguous();
    const auto* data = made.const_data_ptr<int32_t>();
    all.ids.insert(all.ids.end(), data, data + made.numel());
  }
  return all;
}

double Likeness::mean_agreement() const { return mean_of(agreement); }

Likeness likeness(const Continuations& full, const Continuations& other) {
  TORCH_CHECK(full.new_tokens == other.new_tokens && full.ids.size() == other.ids.size(), "continuations of ",
              full.ids.size(), " and ", other.ids.size(), " tokens");
  const int64_t M = full.new_tokens, N = static_cast<int64_t>(full.ids.size()) / M;
  Likeness likeness{.same_tokens = 0, .agreement = std::vector<double>(M, 0.0)};
  for (int64_t n = 0; n < N; ++n) {
    const int32_t *a = full.ids.data() + n * M, *b = other.ids.data() + n * M;
    likeness.same_by_prompt.push_back(static_cast<double>(std::mismatch(a, a + M, b).first - a));
    double same = 0;
    for (int64_t t = 0; t < M; ++t) {
      likeness.agreement[t] += a[t] == b[t] ? 1.0 / static_cast<double>(N) : 0.0;
      same += a[t] == b[t] ? 1 : 0;
    }
    likeness.agreement_by_prompt.push_back(same / static_cast<double>(M));
  }
  likeness.same_tokens = mean_of(likeness.same_by_prompt);
  return likeness;
}

// ---- the measure ----

namespace {

constexpr const char* kWritten = "written.json";  // token ids of the full-precision model

Json values_of(const Prompts& prompts, const Continuations& written) {
  return {{"corpus", prompts.corpus},         {"prompts", prompts.count},
          {"prompt_tokens", prompts.length},  {"new_tokens", written.new_tokens},
          {"token_hash", prompts.token_hash}, {"repeated_4grams", written.repeated_4grams()}};
}

// The text of some ids, in which bytes that are no UTF-8, of a character cut in two, are replaced; what is said against
// an id that is no token.
std::string text_of(const core::Tokenizer& tokenizer, const int32_t* ids, int64_t count) {
  std::string text;
  try {
    text = tokenizer.decode({ids, ids + count});
  } catch (const core::UserError& error) {  // a padded embedding has more ids than there are tokens
    text = error.what();
  }
  return Json::parse(Json(text).dump(-1, ' ', false, Json::error_handler_t::replace));
}

Json interval_of(const std::vector<double>& by_prompt) {
  const auto [low, high] = bootstrap_interval(by_prompt);
  return {low, high};
}

Found measured(const Prompts& prompts, const GenerationConfig& config, const core::Tokenizer& tokenizer,
               const Subject& subject) {
  const int64_t new_tokens = config.new_tokens;
  const Continuations written = continuations(subject.model, prompts, new_tokens,
                                              {.temperature = config.temperature, .top_p = config.top_p}, subject.seed);
  Found found{.values = values_of(prompts, written)};
  if (config.temperature > 0) {
    found.values["temperature"] = config.temperature;
    found.values["top_p"] = config.top_p;
  }
  found.values["intervals"] = {{"repeated_4grams", interval_of(written.repeated_by_prompt())}};
  const std::string prompt = text_of(tokenizer, prompts.ids.data(), prompts.length);
  const std::string text = text_of(tokenizer, written.ids.data(), new_tokens);
  found.values["first"] = {{"prompt", prompt}, {"text", text}};
  found.log.push_back(fmt::format("{} goes on behind {} with {}",
                                  subject.full == nullptr ? "full precision" : "the quantized model",
                                  Json(prompt).dump(), Json(text).dump()));
  if (subject.keep) core::write_atomically(subject.keep(kWritten), Json(written.ids).dump());
  if (subject.full == nullptr) return found;
  const Json ids = Json::parse(core::read_file(subject.full->file(kWritten)));
  const Likeness like = likeness({new_tokens, ids.get<std::vector<int32_t>>()}, written);
  found.values["same_tokens"] = like.same_tokens;
  found.values["agreement"] = like.mean_agreement();
  found.values["agreement_by_position"] = like.agreement;
  found.values["intervals"]["same_tokens"] = interval_of(like.same_by_prompt);
  found.values["intervals"]["agreement"] = interval_of(like.agreement_by_prompt);
  return found;
}

}  // namespace

Prepared GenerationConfig::prepare(Texts& texts) const {
  const auto prompts = std::make_shared<const Prompts>(
      make_prompts(*this, texts.tokens(core::find_corpus(corpus)), texts.tokenizer(), texts.shape()));
  return {prompts->token_hash, [prompts, config = *this, &tokenizer = texts.tokenizer()](const Subject& subject) {
            return measured(*prompts, config, tokenizer, subject);
          }};
}

std::vector<Column> GenerationConfig::columns() const {
  const auto percent = Column::Unit::percent;
  return {{.heading = "same tokens", .path = "same_tokens", .digits = 1, .less_is_better = false},
          {.heading = "agree", .path = "agreement", .digits = 1, .unit = percent, .less_is_better = false},
          {.heading = "repeated", .path = "repeated_4grams", .digits = 1, .unit = percent}};
}

MeasureKind make_generation() {
  return {.help = "what the model writes, beside the full-precision model; nothing unless given",
          .make = [] { return GenerationConfig{}; }};
}

}  // namespace experiments
