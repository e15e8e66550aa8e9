#include "experiments/run/baseline.h"

#include "experiments/inputs/cache_key.h"
#include "experiments/run/directories.h"
#include "models/registry.h"

namespace experiments {

namespace {

constexpr const char* kFound = "found.json";

// The full-precision model, made when the first measurement is not in the cache.
struct FullPrecision {
  std::shared_ptr<core::Model> model;
  std::unique_ptr<core::BlockSource> source;

  explicit FullPrecision(const Run& run) : model(models::build(run.files->config)) {
    const core::Weights weights = weights_of(run.spec(), *run.files);
    source = exports::open_source(*model, run.files->path, weights, residency_of(run.spec(), weights));
    model->load_embedding_and_head(weights);
  }
};

core::CacheKey key_of(const Run& run, const Measurement& measurement, const std::string& model_hash) {
  const MeasureSettings& settings = run.spec().measure;
  Dependencies on{.stage = "baseline",
                  .version = kBaselineVersion,
                  .keys = {measurement.measure.get()},
                  .inputs = {{"measure", measurement.name},
                             {"measure version", std::to_string(measurement.measure->version())},
                             {"model", model_hash},
                             {"tokens", measurement.prepared->token_hash},
                             {"batch_tokens", std::to_string(settings.batch_tokens)},
                             {"kl", !settings.kl           ? "no"
                                    : settings.noise_floor ? "with floor"
                                                           : "yes"}}};
  if (measurement.measure->draws()) on.inputs.emplace_back("seed", std::to_string(run.spec().seed));
  return cache_key(run.spec(), on);
}

Json to_json(const Found& found) {
  return {{"values", found.values}, {"items", found.items}, {"log", found.log}, {"log_file", found.log_file}};
}

Found from_json(const Json& json) {
  return {.values = json.at("values"),
          .items = json.at("items").get<std::vector<std::vector<std::string>>>(),
          .log = json.at("log").get<std::vector<std::string>>(),
          .log_file = json.at("log_file").get<std::string>()};
}

void measure(const Run& run, const Measurement& measurement, FullPrecision& full, core::CacheEntry& entry) {
  const Spec& spec = run.spec();
  if (measurement.measure->decodes()) core::load_blocks(*full.model, *full.source);
  const Found found = measurement.prepared->run({.model = *full.model,
                                                 .source = *full.source,
                                                 .settings = spec.measure,
                                                 .seed = static_cast<uint64_t>(spec.seed),
                                                 .dtype = dtype_of(spec),
                                                 .quiet = spec.quiet,
                                                 .progress = progress_directory(run.directory),
                                                 .keep = [&](const std::string& name) { return entry.path(name); }});
  entry.write(kFound, to_json(found).dump());
  entry.commit();
}

}  // namespace

std::optional<OfFullPrecision> Baseline::of(size_t i, const core::Weights& weights) const {
  if (i >= measurements.size() || !measurements[i]) return std::nullopt;
  return OfFullPrecision{.values = measurements[i]->found.values,
                         .file = [kept = measurements[i]->kept](const std::string& name) { return kept->path(name); },
                         .weights = weights};
}

Baseline baseline(const Run& run, Resources& resources) {
  const std::string model_hash = resources.model_hash(*run.files);
  std::optional<FullPrecision> full;
  Baseline result;
  for (const Measurement& measurement : run.measurements) {
    std::optional<MeasuredInFull>& measured = result.measurements.emplace_back();
    if (!measurement.measure->measures_full_precision()) continue;
    core::CacheEntry entry = resources.cache().open(key_of(run, measurement, model_hash));
    if (!entry.complete()) {
      if (!full) full.emplace(run);
      measure(run, measurement, *full, entry);
      result.cached = false;
    }
    Found found = from_json(Json::parse(entry.read(kFound)));
    measured = MeasuredInFull{std::move(found), std::make_shared<const core::CacheEntry>(std::move(entry))};
  }
  return result;
}

}  // namespace experiments
