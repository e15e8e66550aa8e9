#include "experiments/run/pipeline.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <utility>

#include "core/io/safetensors.h"
#include "experiments/analysis/sensitivity.h"
#include "experiments/inputs/prefix.h"
#include "experiments/run/baseline.h"
#include "experiments/run/directories.h"
#include "experiments/run/quantize_model.h"
#include "experiments/run/ranking.h"
#include "experiments/run/runtime.h"
#include "export/checkpoint.h"
#include "models/registry.h"

namespace experiments {

namespace {

// A run on its way, and what it has found so far.
class Pipeline {
 public:
  Pipeline(const Run& run, Resources& resources) : run_(run), resources_(resources) {
    record_.model_hash = resources.model_hash(*run.files);
    record_.quantized.resize(run.measurements.size());
  }

  RunRecord run() && {
    if (!run_.files->quantized) measure_full_precision();
    if (spec().runtime.prefix.selected()) give_prefix();
    if (run_.quantizes()) {
      rank_units();
      quantize();
      compare_with_single_replica();
      if (ranking_->spec.qat.tunes_model()) train();
    }
    load();
    measure();
    record_.stages = log_.all();
    return std::move(record_);
  }

 private:
  const Spec& spec() const { return run_.spec(); }
  std::string checkpoint() const { return checkpoint_directory(run_.directory); }

  // From here on the model, in full precision too, has the prefix.
  void give_prefix() {
    record_.without_prefix = std::exchange(record_.baseline, {});
    log_.run("prefix", [&] {
      prefixed_.emplace(with_prefix(spec(), *run_.files, run_.calibration));
      run_.files = &*prefixed_;
      return false;
    });
    record_.prefix = prefixed_->prefix.tokens;
    record_.model_hash = resources_.model_hash(*prefixed_);
    measure_full_precision();
    for (size_t i = 0; i < run_.measurements.size(); ++i) {
      if (!record_.without_prefix[i] || !record_.baseline[i]) continue;
      const Column first = run_.measurements[i].measure->columns().front();
      const Json::json_pointer path("/" + first.path);
      if (!record_.baseline[i]->values.contains(path)) continue;
      const auto value = [&](const Found& found) { return found.values.at(path).get<double>(); };
      spdlog::info("full precision: {} {:.{}f} without the prefix, {:.{}f} with it", first.heading,
                   value(*record_.without_prefix[i]), first.digits, value(*record_.baseline[i]), first.digits);
    }
  }

  void measure_full_precision() {
    log_.run("baseline", [&] {
      full_ = baseline(run_, resources_);
      for (const auto& measured : full_.measurements)
        record_.baseline.push_back(measured ? std::optional(measured->found) : std::nullopt);
      for (const Measurement& one : run_.measurements) {
        if (one.measure->measures_full_precision()) log_.uses(one.name);
      }
      return full_.cached;
    });
  }

  // What selections, controls and bits of experts stand on.
  void rank_units() {
    const bool ranks = spec().replication.ranks(), counts_experts = measures_experts(spec());
    if (!ranks && !counts_experts) {
      ranking_.emplace(rank(run_, resources_));
      return;
    }
    log_.run("rank", [&] {
      ranking_.emplace(rank(run_, resources_));
      write_ranking(*ranking_, run_.directory);
      if (ranks) log_.uses("sensitivity");
      if (counts_experts) log_.uses("experts");
      log_.uses("quantize");  // tried out on single units
      return false;
    });
  }

  // Transforms, quantizes, replicates and trains block by block, and writes the checkpoint.
  void quantize() {
    const quant::QatConfig& qat = ranking_->spec.qat;
    const std::string target = qat.tunes_model() ? untrained_directory(run_.directory) : checkpoint();
    log_.run("quantize", [&] {
      auto [modules, training] = quantize_model(run_, *ranking_, resources_, target, log_);
      record_.modules = std::move(modules);
      record_.training = std::move(training);
      return false;
    });
    if (qat.tunes_blocks()) log_.add("qat", seconds_of(record_.training));
  }

  // What replication buys against the errors of the single replica.
  void compare_with_single_replica() {
    if (run_.calibration == nullptr) return;
    const Spec& quantized = ranking_->spec;
    if (quantized.corrects_targets()) return;  // errors are relative to W, and what is coded is not W
    if (!quantized.replication.selected())
      return keep_single_errors(quantized, resources_, *run_.files, *run_.calibration, record_.modules);
    const Replaced& replaced = ranking_->replaced;
    if (replaced.weights == 0 || quantized.replication.average) return;
    if (replaced.paths.empty()) {  // whole blocks run again: their linears are those of the single replica
      record_.efficiency = Efficiency{.linears = 0, .extra_bits = replaced.extra_per_weight()};
      return;
    }
    log_.run("single", [&] {
      log_.uses("sensitivity");
      log_.uses("quantize");
      record_.efficiency =
          efficiency(replaced, record_.modules, single_errors(quantized, resources_, *run_.files, *run_.calibration));
      return false;
    });
  }

  // Trains the quantized model end to end.
  void train() {
    log_.run("qat", [&] {
      record_.training.push_back(train_model(run_, ranking_->spec));
      return false;
    });
  }

  // The model as it is measured: the checkpoint as it was written, also when this process has written it. Resident
  // weights are all read here, because each is counted.
  void load() {
    log_.run("load", [&] {
      measured_ = opened(spec().runtime);
      record_.bill = bill_of(*measured_.model, *measured_.source, spec().machine.cache_bytes);
      record_.runtime = measured_.source->report();
      return false;
    });
  }

  struct Opened {
    std::shared_ptr<core::Model> model;
    std::unique_ptr<PackedSource> source;
  };

  Opened opened(const RuntimeConfig& runtime) const {
    const ModelFiles& files = *run_.files;
    if (!run_.quantizes()) {
      Opened original = opened(runtime, files.path, weights_of(spec(), files));
      follow_plan(spec(), *original.model);
      for (int64_t i = 0; i < original.model->shape().layers; ++i)
        replication::prepare_replicas(spec().replication, {}, *original.model, i, static_cast<uint64_t>(spec().seed));
      return original;
    }
    const auto written = std::make_shared<const core::Checkpoint>(core::Checkpoint::open(checkpoint()));
    return opened(runtime, checkpoint(), core::Weights(written, dtype_of(spec()), device_of(spec())));
  }

  // directory: the user's model, or our checkpoint of it.
  Opened opened(const RuntimeConfig& runtime, const std::string& directory, const core::Weights& weights) const {
    Opened all{.model = models::build(run_.files->config), .source = nullptr};
    all.source = std::make_unique<PackedSource>(
        exports::open_source(*all.model, directory, weights, residency_of(spec(), weights)), runtime);
    exports::load_embedding_and_head(*all.model, directory, weights);
    all.source->pack(all.model->head());
    return all;
  }

  // The measured model with inputs in floats, beside which it is seen what rounding them costs.
  Opened with_float_inputs() const {
    RuntimeConfig runtime = spec().runtime;
    runtime.linears = "packed";
    return opened(runtime);
  }

  // One stage per measure.
  void measure() {
    const std::string directory = std::filesystem::exists(checkpoint()) ? checkpoint() : run_.files->path;
    const int64_t file_bytes = exports::bytes_on_disk(directory);
    for (size_t first = 0; first < run_.measurements.size();) {
      const std::string& name = run_.measurements[first].name;
      size_t last = first;
      while (last < run_.measurements.size() && run_.measurements[last].name == name) ++last;
      log_.run(name, [&] { return measure(first, last, file_bytes); });
      first = last;
    }
  }

  // Measurements [first, last), of one measure. Where nothing was changed, full precision is the result, unless tokens
  // are generated, which depends on how the model runs too.
  bool measure(size_t first, size_t last, int64_t file_bytes) {
    Opened floats;
    std::function<Runnable()> float_inputs;
    if (spec().runtime.rounds_inputs()) {
      float_inputs = [&]() -> Runnable {
        if (floats.model == nullptr) floats = with_float_inputs();
        return {*floats.model, *floats.source};
      };
    }
    for (size_t i = first; i < last; ++i) {
      const Measurement& measurement = run_.measurements[i];
      if (run_.is_unchanged() && !measurement.measure->decodes()) {
        record_.quantized[i] = record_.baseline.at(i);
        continue;
      }
      core::Model& model = *measured_.model;
      if (measurement.measure->decodes()) core::load_blocks(model, *measured_.source);
      const std::optional<OfFullPrecision> full = full_.of(i, weights_of(spec(), *run_.files));
      record_.quantized[i] = measurement.prepared->run({.model = model,
                                                        .source = *measured_.source,
                                                        .settings = spec().measure,
                                                        .seed = static_cast<uint64_t>(spec().seed),
                                                        .dtype = dtype_of(spec()),
                                                        .quiet = spec().quiet,
                                                        .progress = progress_directory(run_.directory),
                                                        .full = full ? &*full : nullptr,
                                                        .float_inputs = float_inputs,
                                                        .bill = &record_.bill,
                                                        .file_bytes = file_bytes});
    }
    return run_.is_unchanged() && !run_.measurements[first].measure->decodes();
  }

  Run run_;
  std::optional<ModelFiles> prefixed_;
  Resources& resources_;
  StageLog log_;
  RunRecord record_;
  Baseline full_;
  std::optional<Ranking> ranking_;
  Opened measured_;
};

}  // namespace

RunRecord compute(const Run& run, Resources& resources) { return Pipeline(run, resources).run(); }

}  // namespace experiments
