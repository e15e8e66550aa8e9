#include "experiments/baseline.h"

#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <torch/version.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "core/progress.h"
#include "models/registry.h"

namespace experiments {

namespace {

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

std::string cache_file(const Spec& spec, const std::string& model_hash, const Perplexity& measurement) {
  const std::string key = fmt::format(
      "baseline {} model {} tokens {} protocol {} bos {} seq_len {} dtype {} device {} threads {} batch {} libtorch {}",
      kBaselineVersion, model_hash, measurement.token_hash, measurement.protocol, measurement.bos, measurement.seq_len,
      c10::toString(dtype_of(spec)), device_of(spec).str(), at::get_num_threads(), spec.measure.batch_tokens,
      TORCH_VERSION);
  return fmt::format("{}/.cache/baseline-{}.json", spec.out, core::hash_text(key));
}

// The window sums of an earlier run; empty when there are none, or the file is not what we wrote.
std::vector<double> read_cache(const std::string& file, int64_t windows) {
  if (!std::filesystem::exists(file)) return {};
  const nlohmann::json json = nlohmann::json::parse(core::read_file(file), nullptr, /*allow_exceptions=*/false);
  if (!json.is_array() || static_cast<int64_t>(json.size()) != windows) return {};
  std::vector<double> nll;
  for (const auto& value : json) {
    if (!value.is_number()) return {};
    nll.push_back(value.get<double>());
  }
  return nll;
}

}  // namespace

Baseline baseline(const Spec& spec, Inputs& inputs) {
  const ModelFiles& files = inputs.model(spec.model.path);
  const core::Shape shape = models::build(files.config)->shape();
  const std::string model_hash = inputs.model_hash(files);
  std::optional<FullPrecision> full;
  Baseline result;
  for (const PerplexityConfig& config : spec.measure.perplexity) {
    const core::Windows& windows = inputs.windows(files, config, shape);
    Perplexity measured = unmeasured(config, windows);
    const std::string file = cache_file(spec, model_hash, measured);
    measured.window_nll = read_cache(file, windows.count);
    if (measured.window_nll.empty()) {
      if (!full) full.emplace(spec, files);
      core::Progress progress("full precision on " + config.corpus, spec.quiet);
      measured.window_nll = window_nll(*full->model, *full->source, windows, spec.measure.batch_tokens,
                                       [&](int64_t done, int64_t total) { progress.update(done, total); });
      core::create_directories(spec.out + "/.cache");
      core::write_atomically(file, nlohmann::json(measured.window_nll).dump());
      result.cached = false;
    }
    result.perplexity.push_back(std::move(measured));
  }
  return result;
}

}  // namespace experiments
