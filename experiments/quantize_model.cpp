#include "experiments/quantize_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <optional>

#include "core/hidden_store.h"
#include "core/io/files.h"
#include "core/plan_stream.h"
#include "core/progress.h"
#include "experiments/assignments.h"
#include "experiments/cache_key.h"
#include "experiments/experts.h"
#include "experiments/resume.h"
#include "experiments/sensitivity.h"
#include "experiments/version.h"
#include "export/checkpoint.h"
#include "models/registry.h"
#include "quant/apply_transforms.h"

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
std::optional<quant::StatisticsStore> statistics_store(const Spec& spec, Inputs& inputs, const ModelFiles& files,
                                                       const core::Windows* calibration, const std::string& plan = "") {
  if (calibration == nullptr || (spec.calibration.propagate_error && plan.empty())) return std::nullopt;
  std::vector<const core::Section*> keys{&spec.calibration};
  for (const quant::NamedTransform& t : quant::transforms_of(spec.transform, spec.quant)) {
    keys.push_back(t.transform.get());
    if (t.transform->reads_grid()) keys.push_back(&spec.quant);
  }
  std::vector<std::pair<std::string, std::string>> contents{{"model", inputs.model_hash(files)},
                                                            {"tokens", calibration->token_hash}};
  if (!plan.empty()) contents.emplace_back("plan", plan);
  const Dependencies on{.stage = "statistics",
                        .version = quant::StatisticsStore::kVersion,
                        .keys = std::move(keys),
                        .inputs = std::move(contents)};
  return quant::StatisticsStore(inputs.cache(), cache_key(spec, on));
}

// Units by sensitivity, and whether they are chosen.
void write_sensitivity(const Spec& spec, core::Model& model, const replication::Evidence& known,
                       const std::vector<quant::Assignment>& assigned, const std::string& directory) {
  const replication::Selection& select = spec.replication.select;
  std::set<std::string> linears = replaced(spec, model, assigned).paths, chosen;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (model.replicas(i).empty()) continue;
    for (const core::Slot* slot : model.block(i).slots()) linears.insert(slot->path());
  }
  for (const std::string& unit : select.units(model)) {
    const auto in = [&](const std::string& linear) { return replication::is_inside(linear, unit); };
    if (std::any_of(linears.begin(), linears.end(), in)) chosen.insert(unit);
  }
  core::write_atomically(directory + "/sensitivity.csv", sensitivity_csv(select, model, known, chosen));
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

// Of inputs in steps that the walk has not come to when it codes a linear (quant/further_inputs.cpp): they depend on
// the plan too. A walk in full precision measures what the cache does not have.
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

void write_experts(const Spec& asked, const Spec& spec, Inputs& inputs, const ModelFiles& files,
                   const std::string& directory, const core::Windows& text) {
  const auto model = models::build(files.config);
  std::optional<replication::Evidence> known;
  if (spec.replication.ranks()) known = evidence(spec, inputs, files, text);
  std::set<std::string> chosen;
  if (spec.replication.selected())
    chosen = replaced(spec, *model, assignments(spec, *model, known ? &*known : nullptr)).paths;
  std::vector<Expert> experts = experts_of(asked, inputs, files, text);
  for (const quant::Assignment& a : quant::assign(single_of(spec).quant, *model, static_cast<uint64_t>(spec.seed))) {
    for (Expert& expert : experts) {
      if (a.decoder && quant::expert_of(a.slot->path()) == expert.path) expert.bits = a.decoder->config().bits;
    }
  }
  const std::map<std::string, double> none;
  core::write_atomically(directory + "/experts.csv", experts_csv(experts, known ? known->kl : none, chosen));
  core::write_atomically(directory + "/coactivation.csv", coactivation_csv(experts));
}

QuantizedBlocks quantize_model(const Spec& spec, Inputs& inputs, const ModelFiles& files, const std::string& directory,
                               const std::string& checkpoint, const core::Windows* calibration) {
  const core::Weights weights = weights_of(spec, files);
  const std::string progress = progress_directory(directory);
  const auto model = models::build(files.config);
  const bool propagates = spec.calibration.propagate_error;
  std::optional<quant::StatisticsStore> store = statistics_store(spec, inputs, files, calibration);
  std::optional<replication::Evidence> known;
  if (spec.replication.ranks()) known = evidence(spec, inputs, files, *calibration);
  const std::vector<quant::Assignment> assigned = assignments(spec, *model, known ? &*known : nullptr);
  if (known && spec.replication.select.is_ranked()) write_sensitivity(spec, *model, *known, assigned, directory);
  exports::UnfinishedSource source(weights, checkpoint, progress);
  std::optional<quant::StatisticsStore> further;
  if (std::any_of(assigned.begin(), assigned.end(), [](const auto& a) { return !a.further.empty(); }))
    further = statistics_store(spec, inputs, files, calibration, as_text(spec.replication, model->plan()));
  quant::Calibration inputs_as = calibration_of(spec, calibration);
  inputs_as.store = store ? &*store : nullptr;
  inputs_as.further = further ? &*further : nullptr;
  quant::Quantize stage(
      spec.quant.methods.at(spec.quant.method), spec.quant.method, assigned, inputs_as,
      [&](const std::string& path) { return source.encoded(*model, path); },
      [&](const std::string& path) { return weight_at(*model, weights, path); });
  const std::vector<quant::NamedTransform> transforms = quant::transforms_of(spec.transform, spec.quant);
  quant::ApplyTransforms transform(transforms, assigned, propagates);
  replication::Replicate replicate(spec.replication, own_of_replicas(spec, model->plan()),
                                   static_cast<uint64_t>(spec.seed));
  quant::TuneBlocks tune(spec.qat, remake(), static_cast<uint64_t>(spec.seed));
  std::vector<core::Stage*> stages{&transform, &stage};
  const bool together = core::runs_in_one_go(model->plan());  // replicas are then trained with their block
  if (together) stages.push_back(&replicate);
  if (spec.qat.tunes_blocks()) stages.push_back(&tune);
  if (!together) stages.push_back(&replicate);
  exports::Save save(files.directory, weights, checkpoint, commit(), {progress, stages});
  replication::Average average(spec.replication);
  if (spec.replication.average && !spec.qat.tunes_model()) stages.push_back(&average);
  stages.push_back(&save);
  model->load_ends(weights);
  const bool written = exports::is_quantized_checkpoint(checkpoint);
  if (!written && further) measure_further(spec, weights, *model, stage, *calibration);
  std::optional<core::HiddenStore> full, quantized;  // streams of the calibration text
  std::vector<const core::Windows*> texts{calibration};
  int64_t held_out = 0;  // batches
  if (spec.qat.tunes_blocks()) {
    const TrainingText& text = *inputs.training(files, spec, model->shape());
    if (text.held_out) {
      texts.push_back(&*text.held_out);
      held_out = batch_count(text.held_out->count, text.held_out->seq_len, spec.calibration.batch_tokens);
    }
  }
  const auto embed = [&] { return embedded(*model, texts, spec.calibration.batch_tokens); };
  const bool trains = spec.qat.tunes_blocks(), reads = !transforms.empty() || stage.reads_stream(*model);
  if (!written && (trains || (reads && stage.reads_full_stream()))) full.emplace(embed());
  stage.ends(*model);
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
  return {std::move(reports), trains ? parts_of(tune, spec) : std::vector<TrainingPart>()};
}

}  // namespace experiments
