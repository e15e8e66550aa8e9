#include "experiments/run_point.h"

#include <spdlog/sinks/basic_file_sink.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <optional>

#include "core/error.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "core/machine.h"
#include "core/progress.h"
#include "experiments/assignments.h"
#include "experiments/cache_key.h"
#include "experiments/efficiency.h"
#include "experiments/experts.h"
#include "experiments/quantize_model.h"
#include "experiments/resume.h"
#include "experiments/runtime.h"
#include "experiments/sensitivity.h"
#include "experiments/stages.h"
#include "experiments/training.h"
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

// Every key that the run reads, with its value.
core::Node resolved_keys(const Spec& spec) {
  Spec copy = spec;
  core::Node node = core::to_node(copy);
  const std::vector<std::string> unread = spec.replication.unread();
  std::erase_if(node.find("quant")->find("weight")->entries,
                [&](const auto& entry) { return std::count(unread.begin(), unread.end(), entry.first) > 0; });
  return node;
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

  // Under llama.cpp's protocol, what its tool prints: the estimate after each window (here only), and the final one.
  void estimates(const Perplexity& p) const {
    if (p.protocol != core::kLlamaCpp) return;
    spdlog::logger("", sink_).info("{} ({}), running estimate:\n{}", p.corpus, p.protocol, running_estimate(p));
    spdlog::info("{} ({}): final estimate: PPL = {:.4f} +/- {:.5f}", p.corpus, p.protocol, p.ppl(),
                 p.ppl_stderr_tokens());
  }

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

// A model as it is measured.
struct Working {
  std::shared_ptr<core::Model> model;
  std::unique_ptr<PackedSource> source;
};

// The model in `directory`, the user's or our checkpoint of it, opened as `weights`.
Working open_model(const Spec& spec, const ModelFiles& files, const std::string& directory,
                   const core::Weights& weights) {
  Working work{models::build(files.config), nullptr};
  work.source = std::make_unique<PackedSource>(
      exports::open_source(*work.model, directory, weights, residency_of(spec, weights)), spec.runtime);
  exports::load_ends(*work.model, directory, weights);
  work.source->pack(work.model->head());
  return work;
}

// What is measured in the end: the checkpoint as it was written, also when this process has written it.
Working open_result(const Spec& spec, const ModelFiles& files, const std::string& checkpoint) {
  if (spec.quant.method == quant::QuantConfig::kNone) {
    Working work = open_model(spec, files, files.directory, weights_of(spec, files));
    const auto seed = static_cast<uint64_t>(spec.seed);
    follow_plan(spec, *work.model);
    for (int64_t i = 0; i < work.model->shape().layers; ++i)
      replication::prepare_replicas(spec.replication, {}, *work.model, i, seed);
    return work;
  }
  const auto written = std::make_shared<const core::Checkpoint>(core::Checkpoint::open(checkpoint));
  return open_model(spec, files, checkpoint, core::Weights(written, dtype_of(spec), device_of(spec)));
}

// states: of the full-precision model, per measurement; empty or null: no distance from it is taken.
std::vector<Perplexity> measure(const Spec& spec, Inputs& inputs, const ModelFiles& files, Working& work,
                                const std::vector<std::shared_ptr<const FinalStates>>& states) {
  std::vector<Perplexity> all;
  std::optional<FinalLayers> layers;  // of the full-precision model
  for (const PerplexityConfig& config : spec.measure.perplexity) {
    const core::Windows& windows = inputs.windows(files, config, work.model->shape());
    const FinalStates* full = states.empty() ? nullptr : states.at(all.size()).get();
    if (full != nullptr && !layers) layers.emplace(*work.model, weights_of(spec, files));
    std::optional<Reference> reference;
    if (full != nullptr) reference.emplace(*full, *layers);
    core::Progress progress("perplexity on " + config.corpus, spec.quiet);
    all.push_back(unmeasured(config, windows));
    all.back().scores = score(*work.model, *work.source, windows,
                              {.batch_tokens = spec.measure.batch_tokens,
                               .reference = reference ? &*reference : nullptr,
                               .on_step = [&](int64_t done, int64_t total) { progress.update(done, total); }});
  }
  return all;
}

// Errors of the single replica, and what replication buys against them.
void weigh(const Spec& spec, Inputs& inputs, const ModelFiles& files, Findings& findings) {
  const auto model = models::build(files.config);
  const core::Windows* text = inputs.calibration(files, spec, *model);
  if (text == nullptr) return;
  if (!spec.replication.selected()) return keep_single_errors(spec, inputs, files, *text, findings.modules);
  std::optional<replication::Evidence> known;
  if (spec.replication.ranks()) known = evidence(spec, inputs, files, *text);
  const Replaced linears = replaced(spec, *model, assignments(spec, *model, known ? &*known : nullptr));
  if (linears.weights == 0 || spec.replication.average) return;
  if (linears.paths.empty()) {  // whole blocks run again: their linears are those of the single replica
    findings.efficiency = Efficiency{.linears = 0, .extra_bits = linears.extra_per_weight()};
    return;
  }
  staged(findings.stages, "single", kSensitivityVersion, [&] {
    findings.efficiency = efficiency(linears, findings.modules, single_errors(spec, inputs, files, *text));
    return false;
  });
}

// What is measured by generating tokens.
void decode(const Spec& spec, Inputs& inputs, const ModelFiles& files, Working& work, Findings& findings) {
  if (const Prompts* prompts = inputs.prompts(files, spec, work.model->shape())) {
    findings.prompts = *prompts;
    staged(findings.stages, "generation", kGenerationVersion, [&] {
      core::load_blocks(*work.model, *work.source);
      findings.written = continuations(*work.model, *prompts, spec.measure.generation.new_tokens);
      return false;
    });
  }
  if (!spec.measure.times()) return;
  staged(findings.stages, "latency", kLatencyVersion, [&] {
    core::load_blocks(*work.model, *work.source);
    findings.latency = measure_latency(*work.model, spec.measure.latency, static_cast<uint64_t>(spec.seed));
    return false;
  });
}

Findings compute(const Point& point, const std::string& directory, Inputs& inputs, const ModelFiles& files) {
  const Spec& asked = point.spec;
  Spec spec = asked;  // with the bits of each expert, once they are known
  Findings findings{.id = run_id(asked, inputs),
                    .spec = &asked,
                    .swept = point.swept,
                    .config_hash = config_hash(asked),
                    .model_hash = inputs.model_hash(files),
                    .tokenizer_hash = files.tokenizer->hash()};
  const bool quantizes = spec.quant.method != quant::QuantConfig::kNone;
  if (const TrainingText* text = inputs.training(files, spec, models::build(files.config)->shape()))
    findings.training_tokens = text->token_hash();
  std::vector<std::shared_ptr<const FinalStates>> states;
  if (!files.quantized) {
    staged(findings.stages, "baseline", kBaselineVersion, [&] {
      Baseline full = baseline(spec, inputs);
      findings.baseline = std::move(full.perplexity);
      findings.written_by_full = std::move(full.written);
      states = std::move(full.states);
      return full.cached;
    });
  }
  const std::string checkpoint = directory + "/checkpoint";
  const std::string quantized = spec.qat.tunes_model() ? untrained_directory(directory) : checkpoint;
  if (quantizes) {
    staged(findings.stages, "quantize", quant::Quantize::kVersion, [&] {
      const core::Windows* text = inputs.calibration(files, spec, *models::build(files.config));
      if (text != nullptr) findings.calibration_tokens = text->token_hash;
      spec = allocated(asked, inputs, files, text);
      if (measures_experts(asked)) write_experts(asked, spec, inputs, files, directory, *text);
      auto [modules, training] = quantize_model(spec, inputs, files, directory, quantized, text);
      findings.modules = std::move(modules);
      findings.training = std::move(training);
      return false;
    });
    weigh(spec, inputs, files, findings);
  }
  if (spec.qat.tunes_blocks())  // inside that stage
    findings.stages.push_back({"qat", kTrainingVersion, seconds_of(findings.training), 0, false});
  if (spec.qat.tunes_model()) {
    staged(findings.stages, "qat", kTrainingVersion, [&] {
      findings.training.push_back(train_model(spec, inputs, files, directory));
      return false;
    });
  }
  Working work;
  staged(findings.stages, "load", 1, [&] {  // resident weights are all read here, because each is counted
    work = open_result(spec, files, checkpoint);
    findings.bill = bill_of(*work.model, *work.source, spec.machine.cache_bytes);
    findings.runtime = work.source->report();
    return false;
  });
  if (!quantizes && !files.quantized &&
      !spec.replication.selected()) {  // nothing was changed: the baseline is the result
    findings.quantized = *findings.baseline;
  } else {
    staged(findings.stages, "measure", kMeasureVersion,
           [&] { return findings.quantized = measure(spec, inputs, files, work, states), false; });
  }
  decode(spec, inputs, files, work, findings);
  findings.file_bytes = exports::bytes_on_disk(fs::exists(checkpoint) ? checkpoint : files.directory);
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
  if (const Prompts* prompts = inputs.prompts(files, spec, model->shape())) hasher.update(prompts->token_hash);
  if (const TrainingText* text = inputs.training(files, spec, model->shape())) hasher.update(text->token_hash());
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
  const Spec& spec = point.spec;
  const RunLog log(directory);
  const Threads threads(resume(directory, spec));
  const ModelFiles& files = inputs.model(spec.model.path);
  if (residency_of(spec, weights_of(spec, files)) == exports::Residency::stream) core::return_freed_tensors();
  core::limit_hidden_states(static_cast<int64_t>(spec.model.spill_above * 1e9), spec.out + "/.cache");
  core::write_atomically(directory + "/resolved.yaml", core::to_yaml(resolved_keys(spec)));

  const Findings findings = compute(point, directory, inputs, files);
  for (const Perplexity& p : findings.quantized) log.estimates(p);
  report(findings.training, stored_bits(findings.bill.all));

  core::write_atomically(directory + "/modules.csv", modules_csv(findings.modules));
  core::write_atomically(directory + "/windows.csv", windows_csv(findings));
  if (!findings.training.empty()) core::write_atomically(directory + "/qat_log.csv", training_csv(findings.training));
  const std::string checkpoint = directory + "/checkpoint";
  if (spec.checkpoint == "discard") fs::remove_all(checkpoint);
  const Json results = results_json(findings, fs::exists(checkpoint) ? exports::bytes_on_disk(checkpoint) : 0);
  core::write_atomically(directory + "/results.json", results.dump(2) + "\n");
  fs::remove_all(progress_directory(directory));
  fs::remove_all(untrained_directory(directory));
  return results;
}

}  // namespace

Ran run_point(const Point& point, Inputs& inputs, bool force) {
  const std::string directory = run_directory(point.spec, run_id(point.spec, inputs));
  const bool made = !fs::exists(directory);
  core::create_directories(directory);
  const core::FileLock lock = core::FileLock::directory(directory);
  if (Json found = force ? Json(nullptr) : finished_results(directory); !found.is_null()) {
    const std::string reason = outdated(found);
    if (reason.empty()) return {std::move(found), false};
    spdlog::info("a stale run is made anew: {}", reason);
  }
  try {
    return {run_in(directory, point, inputs), true};
  } catch (const core::UserError&) {
    std::error_code ignored;
    if (made && !has_progress(directory)) fs::remove_all(directory, ignored);
    throw;
  }
}

}  // namespace experiments
