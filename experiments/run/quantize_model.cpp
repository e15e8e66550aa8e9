#include "experiments/run/quantize_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>

#include "core/hidden_store.h"
#include "core/plan_stream.h"
#include "core/progress.h"
#include "experiments/inputs/assignments.h"
#include "experiments/inputs/cache_key.h"
#include "experiments/inputs/calibration_text.h"
#include "experiments/run/directories.h"
#include "experiments/run/version.h"
#include "export/checkpoint.h"
#include "quant/stage/apply_transforms.h"

namespace experiments {

namespace {

// What a walk in full precision along the plan depends on beside the model: the plan, and the gates of its replicas.
std::string as_text(const replication::ReplicationConfig& config, const core::Plan& plan) {
  std::string text = core::to_inline_yaml(replication::description(config.strategy, config.chosen()));
  for (const core::Step& step : plan) text += fmt::format(" {}.{}({})", step.block, step.replica, step.kv);
  return text;
}

// Statistics that the points of a sweep share; none when they depend on what is quantized.
// plan: where they depend on it.
std::optional<quant::StatisticsStore> statistics_store(const Spec& spec, Resources& resources, const ModelFiles& files,
                                                       const core::Windows* calibration, const std::string& plan = "") {
  if (calibration == nullptr || (spec.calibration.propagate_error && plan.empty())) return std::nullopt;
  std::vector<const core::Section*> keys{&spec.calibration};
  const std::vector<quant::NamedTransform> transforms = quant::transforms_of(spec.transform, spec.quant);
  for (const quant::NamedTransform& t : transforms) {
    keys.push_back(t.transform.get());
    if (t.transform->reads_grid()) keys.push_back(&spec.quant);
  }
  std::vector<std::pair<std::string, std::string>> contents{{"model", resources.model_hash(files)},
                                                            {"tokens", calibration->token_hash}};
  if (!plan.empty()) contents.emplace_back("plan", plan);
  const Dependencies on{.stage = "statistics",
                        .version = quant::StatisticsStore::kVersion,
                        .keys = std::move(keys),
                        .inputs = std::move(contents)};
  return quant::StatisticsStore(resources.cache(), cache_key(spec, on));
}

// The weight of a linear, whether or not its block is loaded.
at::Tensor weight_at(core::Model& model, const core::Weights& weights, const std::string& path) {
  for (core::Slot* slot : model.slots()) {
    if (slot->path() != path) continue;
    TORCH_CHECK(!slot->filled(), path, " was coded already");
    slot->load(weights);
    const at::Tensor weight = slot->linear().weight();
    slot->unload();
    return weight;
  }
  TORCH_CHECK(false, path, " is no linear of this model");
}

// Of inputs in steps that the walk has not come to when it codes a linear (quant/stage/further_inputs.cpp): they depend
// on the plan too. A walk in full precision measures what the cache does not have.
void measure_further(const Spec& spec, const core::Weights& weights, core::Model& model, const quant::Quantize& stage,
                     const core::Windows& text) {
  if (!stage.wants_further(model)) return;
  for (int64_t i = 0; i < model.shape().layers; ++i)
    replication::prepare_replicas(spec.replication, {}, model, i, static_cast<uint64_t>(spec.seed));
  core::StreamedSource source(weights);
  core::HiddenStore hidden = embedded(model, text, spec.calibration.batch_tokens);
  core::Progress bar("inputs of further steps", spec.quiet);
  stage.measure_further(model, source, hidden, [&](int64_t done, int64_t total) { bar.update(done, total); });
}

}  // namespace

QuantizedBlocks quantize_model(const Run& run, const Ranking& ranking, Resources& resources,
                               const std::string& checkpoint, StageLog& log) {
  const Spec& spec = ranking.spec;
  const ModelFiles& files = *run.files;
  const core::Windows* calibration = run.calibration;
  const std::shared_ptr<core::Model>& model = ranking.model;
  const std::vector<quant::Assignment>& assigned = ranking.assigned;
  const core::Weights weights = weights_of(spec, files);
  const std::string progress = progress_directory(run.directory);
  const bool propagates = spec.calibration.propagate_error;
  std::optional<quant::StatisticsStore> store = statistics_store(spec, resources, files, calibration);
  exports::UnfinishedSource source(weights, checkpoint, progress);
  std::optional<quant::StatisticsStore> further;
  if (std::any_of(assigned.begin(), assigned.end(), [](const auto& a) { return !a.further.empty(); }))
    further = statistics_store(spec, resources, files, calibration, as_text(spec.replication, model->plan()));
  quant::Calibration inputs_as = calibration_of(spec, calibration);
  inputs_as.store = store ? &*store : nullptr;
  inputs_as.further = further ? &*further : nullptr;
  quant::Quantize stage(
      spec.quant.methods.at(spec.quant.method).share(), spec.quant.method, assigned, inputs_as,
      [&](const std::string& path) { return source.encoded(*model, path); },
      [&](const std::string& path) { return weight_at(*model, weights, path); });
  const std::vector<quant::NamedTransform> transforms = quant::transforms_of(spec.transform, spec.quant);
  quant::ApplyTransforms transform(transforms, assigned, propagates);
  replication::Replicate replicate(spec.replication, own_parameters_of_replicas(spec, model->plan()),
                                   static_cast<uint64_t>(spec.seed));
  quant::TuneBlocks tune(spec.qat, format_factory(), static_cast<uint64_t>(spec.seed));
  std::vector<core::Stage*> stages{&transform, &stage};
  const bool together = core::runs_in_one_go(model->plan());  // replicas are then trained with their block
  if (together) stages.push_back(&replicate);
  if (spec.qat.tunes_blocks()) stages.push_back(&tune);
  if (!together) stages.push_back(&replicate);
  exports::Save save(files.path, weights, checkpoint, commit(), {progress, stages});
  replication::Average average(spec.replication);
  if (spec.replication.average && !spec.qat.tunes_model()) stages.push_back(&average);
  stages.push_back(&save);
  log.uses(stages);
  if (store || further) log.uses("statistics");
  model->load_embedding_and_head(weights);
  const bool written = exports::is_quantized_checkpoint(checkpoint);
  if (!written && further) measure_further(spec, weights, *model, stage, *calibration);
  std::optional<core::HiddenStore> full, quantized;  // streams of the calibration text
  std::vector<const core::Windows*> texts{calibration};
  int64_t held_out = 0;  // batches
  if (spec.qat.tunes_blocks()) {
    const TrainingText& text = *run.training;
    if (text.held_out) {
      texts.push_back(&*text.held_out);
      held_out = batch_count(text.held_out->count, text.held_out->seq_len, spec.calibration.batch_tokens);
    }
  }
  const auto embed = [&] { return embedded(*model, texts, spec.calibration.batch_tokens); };
  const bool trains = spec.qat.tunes_blocks(), reads = !transforms.empty() || stage.reads_stream(*model);
  if (!written && (trains || (reads && stage.reads_full_stream()))) full.emplace(embed());
  stage.quantize_embedding_and_head(*model);
  if (!written && (trains || (reads && propagates))) quantized.emplace(embed());
  if (model->shape().tied && !core::shares_embedding(*model))
    spdlog::info("the model ties lm_head to model.embed_tokens; their settings differ: they are stored apart");
  if (written) {
    save.restore_finished(*model);
  } else {
    core::Progress bar(spec.quant.method, spec.quiet);
    const core::Streams streams{
        .full = full ? &*full : nullptr, .quantized = quantized ? &*quantized : nullptr, .held_out = held_out};
    core::walk(*model, source, stages, streams, [&](int64_t done, int64_t total) { bar.update(done, total); });
  }
  if (store) spdlog::info("statistics: {} measured, {} from the cache", store->kept(), store->found());
  std::vector<quant::ModuleReport> reports = stage.reports();
  for (quant::ModuleReport& report : reports) {
    const auto note = transform.notes().find(report.path);
    if (note != transform.notes().end()) report.note = note->second + (report.note.empty() ? "" : ", ") + report.note;
  }
  int64_t imprecise = 0, linears = 0;
  for (const quant::ModuleReport& report : reports) {
    imprecise += report.imprecise_scales;
    linears += report.imprecise_scales > 0 ? 1 : 0;
  }
  if (imprecise > 0) {
    spdlog::warn(
        "{} scales of {} linears are too small for float16: their errors may exceed 1/128. Use scale_dtype: "
        "bfloat16 or float32.",
        imprecise, linears);
  }
  return {std::move(reports), trains ? parts_of(tune, spec) : std::vector<TrainingPart>()};
}

}  // namespace experiments
