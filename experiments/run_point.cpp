#include "experiments/run_point.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>

#include "core/error.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "core/machine.h"
#include "core/progress.h"
#include "experiments/version.h"
#include "export/checkpoint.h"
#include "models/registry.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

std::string config_hash(const Spec& spec) {
  Spec copy = spec;
  return core::hash_text(core::to_yaml(core::to_node(copy, /*identity_only=*/true)));
}

// Lines of this run go to its log.txt too.
class RunLog {
 public:
  explicit RunLog(const std::string& directory)
      : sink_(std::make_shared<spdlog::sinks::basic_file_sink_mt>(directory + "/log.txt")) {
    sink_->set_pattern("%Y-%m-%d %H:%M:%S %l %v");
    spdlog::default_logger()->sinks().push_back(sink_);
  }
  ~RunLog() {
    auto& sinks = spdlog::default_logger()->sinks();
    sinks.erase(std::find(sinks.begin(), sinks.end(), sink_));
  }
  RunLog(const RunLog&) = delete;
  RunLog& operator=(const RunLog&) = delete;

 private:
  spdlog::sink_ptr sink_;
};

// Runs `work` as a stage: its time and peak memory go into the record.
template <typename Work>
void staged(std::vector<StageRecord>& stages, const std::string& name, int version, Work&& work) {
  core::reset_peak_memory();
  const auto start = std::chrono::steady_clock::now();
  const bool cached = work();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  stages.push_back({name, version, seconds, core::peak_memory_bytes(), cached});
  spdlog::info("{}: {:.1f} s{}", name, seconds, cached ? ", from the cache" : "");
}

// The model of one point while it is being made.
struct Working {
  std::shared_ptr<core::Model> model;
  std::unique_ptr<core::BlockSource> source;
};

Working open_model(const Spec& spec, const ModelFiles& files) {
  const core::Weights weights = weights_of(spec, files);
  Working work{models::build(files.config), nullptr};
  work.source = exports::open_source(*work.model, files.directory, weights);
  work.model->load_ends(weights);
  return work;
}

void quantize(const Point& point, Inputs& inputs, const ModelFiles& files, const std::string& directory, Working& work,
              Findings& findings) {
  const Spec& spec = point.spec;
  const bool propagates = spec.calibration.propagate_error;
  quant::Quantize stage(spec.quant.methods.at(spec.quant.method), spec.quant.method,
                        quant::assign(spec.quant, *work.model), {.propagate_error = propagates});
  std::optional<core::HiddenStore> hidden;  // of the calibration text
  core::Streams streams;
  if (const core::Windows* text = inputs.calibration(files, spec, *work.model)) {
    hidden = embedded(*work.model, *text, spec.calibration.batch_tokens);
    (propagates ? streams.quantized : streams.full) = &*hidden;
    findings.calibration_tokens = text->token_hash;
  }
  exports::Save save(files.directory, weights_of(spec, files), directory + "/checkpoint", commit());
  std::vector<core::Stage*> stages{&stage};
  if (spec.checkpoint == "keep") stages.push_back(&save);
  core::Progress progress(spec.quant.method, spec.quiet);
  core::walk(*work.model, *work.source, stages, streams, [&](int64_t done, int64_t total) { progress.update(done, total); });
  findings.modules = stage.reports();
}

std::vector<Perplexity> measure(const Spec& spec, Inputs& inputs, const ModelFiles& files, Working& work) {
  std::vector<Perplexity> all;
  for (const PerplexityConfig& config : spec.measure.perplexity) {
    const core::Windows& windows = inputs.windows(files, config, work.model->shape());
    core::Progress progress("perplexity on " + config.corpus, spec.quiet);
    all.push_back(unmeasured(config, windows));
    all.back().window_nll = window_nll(*work.model, *work.source, windows, spec.measure.batch_tokens,
                                       [&](int64_t done, int64_t total) { progress.update(done, total); });
  }
  return all;
}

Findings compute(const Point& point, const std::string& directory, Inputs& inputs, const ModelFiles& files,
                 Working& work) {
  const Spec& spec = point.spec;
  Findings findings{.id = run_id(spec, inputs),
                    .spec = &spec,
                    .swept = point.swept,
                    .config_hash = config_hash(spec),
                    .model_hash = inputs.model_hash(files),
                    .tokenizer_hash = files.tokenizer->hash()};
  const bool quantizes = spec.quant.method != quant::QuantConfig::kNone;
  if (!files.quantized) {
    staged(findings.stages, "baseline", kBaselineVersion, [&] {
      Baseline full = baseline(spec, inputs);
      findings.baseline = std::move(full.perplexity);
      return full.cached;
    });
  }
  staged(findings.stages, "load", 1, [&] { return work = open_model(spec, files), false; });
  if (quantizes)
    staged(findings.stages, "quantize", quant::Quantize::kVersion,
           [&] { return quantize(point, inputs, files, directory, work, findings), false; });
  if (!quantizes && !files.quantized) {  // nothing was changed: the baseline is the result
    core::walk(*work.model, *work.source, {}, {});
    findings.quantized = *findings.baseline;
  } else {
    staged(findings.stages, "measure", kMeasureVersion,
           [&] { return findings.quantized = measure(spec, inputs, files, work), false; });
  }
  return findings;
}

}  // namespace

std::string run_id(const Spec& spec, Inputs& inputs) {
  const ModelFiles& files = inputs.model(spec.model.path);
  const auto model = models::build(files.config);
  core::Hasher hasher;
  hasher.update(fmt::format("{} {} {}", config_hash(spec), inputs.model_hash(files), files.tokenizer->hash()));
  for (const PerplexityConfig& config : spec.measure.perplexity)
    hasher.update(inputs.windows(files, config, model->shape()).token_hash);
  if (const core::Windows* text = inputs.calibration(files, spec, *model)) hasher.update(text->token_hash);
  return hasher.hex().substr(0, 16);
}

std::string run_directory(const Spec& spec, const std::string& id) { return spec.out + "/" + spec.name + "/" + id; }

Json finished_results(const std::string& directory) {
  const std::string file = directory + "/results.json";
  if (!fs::exists(file)) return nullptr;
  Json results = Json::parse(core::read_file(file), nullptr, /*allow_exceptions=*/false);
  return results.is_object() && results.value("schema", 0) == 1 ? results : Json(nullptr);
}

namespace {

// Everything behind the lock.
Json run_in(const std::string& directory, const Point& point, Inputs& inputs) {
  for (const char* stale : {"results.json", "checkpoint"}) fs::remove_all(directory + "/" + stale);
  const RunLog log(directory);
  Spec resolved = point.spec;
  core::write_atomically(directory + "/resolved.yaml", core::to_yaml(core::to_node(resolved)));

  const ModelFiles& files = inputs.model(point.spec.model.path);
  Working work;
  const Findings findings = compute(point, directory, inputs, files, work);

  core::write_atomically(directory + "/modules.csv", modules_csv(findings.modules));
  core::write_atomically(directory + "/windows.csv", windows_csv(findings));
  const bool kept = fs::exists(directory + "/checkpoint");
  const Json results =
      results_json(findings, *work.model, kept ? exports::bytes_on_disk(directory + "/checkpoint") : 0);
  core::write_atomically(directory + "/results.json", results.dump(2) + "\n");
  return results;
}

}  // namespace

Json run_point(const Point& point, Inputs& inputs) {
  const std::string directory = run_directory(point.spec, run_id(point.spec, inputs));
  const bool made = !fs::exists(directory);
  core::create_directories(directory);
  const core::FileLock lock = core::FileLock::directory(directory);
  try {
    return run_in(directory, point, inputs);
  } catch (const core::UserError&) {
    std::error_code ignored;
    if (made) fs::remove_all(directory, ignored);
    throw;
  }
}

}  // namespace experiments
