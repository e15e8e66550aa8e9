#include "experiments/baseline.h"

#include <nlohmann/json.hpp>

#include "core/progress.h"
#include "experiments/cache_key.h"
#include "models/registry.h"

namespace experiments {

namespace {

// Files of cache entries.
constexpr const char *kScores = "scores.json", *kStates = "final_states", *kWritten = "written.json";

// The full-precision model, made when the first measurement is not in the cache.
struct FullPrecision {
  std::shared_ptr<core::Model> model;
  std::unique_ptr<core::BlockSource> source;

  FullPrecision(const Spec& spec, const ModelFiles& files) : model(models::build(files.config)) {
    const core::Weights weights = weights_of(spec, files);
    source = exports::open_source(*model, files.directory, weights, residency_of(spec, weights));
    model->load_ends(weights);
  }
};

core::CacheKey key_of(const Spec& spec, const std::string& model_hash, const Perplexity& measurement) {
  return cache_key(spec, {.stage = "baseline",
                          .version = kBaselineVersion,
                          .keys = {},
                          .inputs = {{"model", model_hash},
                                     {"tokens", measurement.token_hash},
                                     {"protocol", measurement.protocol},
                                     {"seq_len", std::to_string(measurement.seq_len)},
                                     {"batch_tokens", std::to_string(spec.measure.batch_tokens)},
                                     {"final states", spec.measure.kl ? "kept" : "not kept"}}});
}

Scores read_scores(const core::CacheEntry& entry) {
  const nlohmann::json json = nlohmann::json::parse(entry.read(kScores));
  return {.window_nll = json.at("window_nll"), .window_squares = json.at("window_squares")};
}

void write_scores(const core::CacheEntry& entry, const Scores& scores) {
  const nlohmann::json json{{"window_nll", scores.window_nll}, {"window_squares", scores.window_squares}};
  entry.write(kScores, json.dump());
}

// The states of an entry, which stays in the cache as long as they are in use.
std::shared_ptr<const FinalStates> open_states(core::CacheEntry entry, const FinalStates::Shape& shape) {
  struct Held {
    core::CacheEntry entry;
    FinalStates states;
  };
  const std::string file = entry.path(kStates);
  const std::shared_ptr<const Held> held(new Held{std::move(entry), {file, shape, FinalStates::Open::read}});
  return {held, &held->states};
}

core::CacheKey key_of(const Spec& spec, const std::string& model_hash, const Prompts& prompts) {
  return cache_key(spec, {.stage = "generation",
                          .version = kGenerationVersion,
                          .keys = {},
                          .inputs = {{"model", model_hash},
                                     {"tokens", prompts.token_hash},
                                     {"prompt_tokens", std::to_string(prompts.length)},
                                     {"new_tokens", std::to_string(spec.measure.generation.new_tokens)}}});
}

// What the full-precision model writes; false: it was in the cache.
bool write_on(const Spec& spec, Inputs& inputs, const ModelFiles& files, const Prompts& prompts,
              std::optional<FullPrecision>& full, Continuations& written) {
  core::CacheEntry entry = inputs.cache().open(key_of(spec, inputs.model_hash(files), prompts));
  written.new_tokens = spec.measure.generation.new_tokens;
  if (entry.complete()) {
    written.ids = nlohmann::json::parse(entry.read(kWritten)).get<std::vector<int32_t>>();
    return false;
  }
  if (!full) full.emplace(spec, files);
  core::load_blocks(*full->model, *full->source);
  written = continuations(*full->model, prompts, written.new_tokens);
  entry.write(kWritten, nlohmann::json(written.ids).dump());
  entry.commit();
  return true;
}

}  // namespace

Baseline baseline(const Spec& spec, Inputs& inputs) {
  const ModelFiles& files = inputs.model(spec.model.path);
  const core::Shape model = models::build(files.config)->shape();
  const std::string model_hash = inputs.model_hash(files);
  std::optional<FullPrecision> full;
  Baseline result;
  for (const PerplexityConfig& config : spec.measure.perplexity) {
    const core::Windows& windows = inputs.windows(files, config, model);
    const FinalStates::Shape shape{windows.count, windows.scored_per_window(), model.width, dtype_of(spec)};
    Perplexity& measured = result.perplexity.emplace_back(unmeasured(config, windows));
    core::CacheEntry entry = inputs.cache().open(key_of(spec, model_hash, measured));
    if (entry.complete()) {
      measured.scores = read_scores(entry);
    } else {
      if (!full) full.emplace(spec, files);
      core::Progress progress("full precision on " + config.corpus, spec.quiet);
      std::optional<FinalStates> states;
      if (spec.measure.kl) states.emplace(entry.path(kStates), shape, FinalStates::Open::create);
      measured.scores = score(*full->model, *full->source, windows,
                              {.batch_tokens = spec.measure.batch_tokens,
                               .keep = states ? &*states : nullptr,
                               .on_step = [&](int64_t done, int64_t total) { progress.update(done, total); }});
      write_scores(entry, measured.scores);
      entry.commit();
      result.cached = false;
    }
    result.states.push_back(spec.measure.kl ? open_states(std::move(entry), shape) : nullptr);
  }
  if (const Prompts* prompts = inputs.prompts(files, spec, model)) {
    if (write_on(spec, inputs, files, *prompts, full, result.written.emplace())) result.cached = false;
  }
  return result;
}

}  // namespace experiments
