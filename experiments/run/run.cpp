#include "experiments/run/run.h"

#include <fmt/format.h>

#include "core/error.h"
#include "core/machine.h"
#include "core/warn_once.h"
#include "experiments/analysis/experts.h"
#include "experiments/inputs/assignments.h"
#include "experiments/inputs/prefix.h"
#include "experiments/run/check_exports.h"
#include "models/registry.h"
#include "quant/kernels/product.h"
#include "quant/stage/apply_transforms.h"
#include "replication/mix.h"

namespace experiments {

namespace {

std::vector<Measurement> measurements_of(const Run& run, Resources& resources) {
  std::vector<Measurement> all;
  for (const Asked& asked : run.spec().measure.asked()) {
    // Token by token, a block that is not in memory would be read again for each.
    core::require(!asked.measure().decodes() ||
                      residency_of(run.spec(), weights_of(run.spec(), *run.files)) == exports::Residency::resident,
                  "{}: tokens are generated with all weights in memory, and this model is streamed. Set "
                  "model.residency: resident, or leave {} out.",
                  run.spec().measure.where(asked.kind->name), asked.kind->name);
    all.push_back({.name = asked.kind->name,
                   .is_list = asked.kind->is_list,
                   .measure = asked.options,
                   .prepared = resources.prepared(*run.files, run.shape, asked)});
  }
  return all;
}

// Whether something is measured on the calibration text.
bool reads_calibration(const Spec& spec, const std::vector<quant::Assignment>& assigned) {
  return !quant::transforms_of(spec.transform, spec.quant).empty() || spec.replication.selected() ||
         spec.quant.expert_bits.selected() || spec.qat.tunes_blocks() || quant::needs_statistics(assigned);
}

void check_model(const Run& run, core::Model& model) {
  const Spec& spec = run.spec();
  const ModelFiles& files = *run.files;
  core::require(!(run.quantizes() && files.quantized), "{}: {} is quantized already. Use method: none to measure it.",
                spec.quant.where("method"), files.path);
  exports::check(model, files.path, weights_of(spec, files));
  core::require(!spec.replication.selected() || model.plan() == core::default_plan(model.shape().layers),
                "{}: {} has a plan of its own. Replicate when it is quantized.", spec.replication.where("strategy"),
                files.path);
}

// What is quantized, and the texts for that.
void resolve_quantization(Run& run, const std::shared_ptr<core::Model>& skeleton, Resources& resources) {
  const Spec& spec = run.spec();
  core::Model& model = *skeleton;
  if (!run.quantizes()) {
    follow_plan(spec, model);
    return check_exports(spec, *run.files, skeleton, {});
  }
  const std::vector<quant::Assignment> assigned = assignments(spec, model);
  check_exports(spec, *run.files, skeleton, assigned);
  check_expert_bits(spec, model);
  if (reads_calibration(spec, assigned)) run.calibration = &resources.calibration(*run.files, spec, run.shape);
  if (!spec.qat.selected()) return;
  quant::check_trainable(spec.qat, assigned, model.plan());
  run.training = resources.training(*run.files, spec, run.shape);
}

// From here on a run names what auto stands for, where that is not float32: its numbers depend on it.
void choose_dtype(Run& run) {
  std::string& dtype = run.point.spec.model.dtype;
  if (dtype != "auto") return;
  const int64_t bytes = weights_of(run.spec(), *run.files).bytes_in_memory();  // in float32
  const std::string chosen = dtype_for(bytes / 4, device_of(run.spec()), core::multiplies_bfloat16());
  if (chosen == "float32") return;
  dtype = chosen;
  core::warn_once(fmt::format("{}: model.dtype: auto is {} on this processor, for {:.1f}e9 weights", run.files->path,
                              chosen, static_cast<double>(bytes) / 4e9));
}

}  // namespace

Run resolve(Point point, Resources& resources) {
  Run run{.point = std::move(point)};
  const Spec& spec = run.spec();
  device_of(spec);                                                // refuses one that is not there
  if (spec.runtime.is_packed()) quant::kernels::chosen_kernel();  // refuses what REFRAIN_KERNEL may name
  run.files = &resources.model(spec.model.path);
  choose_dtype(run);
  const auto model = models::build(run.files->config);
  run.shape = model->shape();
  run.shape.context -= prefix_length(spec, *run.files, run.shape);
  check_model(run, *model);
  run.measurements = measurements_of(run, resources);
  try {
    resolve_quantization(run, model, resources);
  } catch (const replication::NoControl& none) {
    run.no_control = none.what();
  }
  run.plan = model->plan();
  if (spec.runtime.prefix.is_auto() && run.calibration == nullptr)
    run.calibration = &resources.calibration(*run.files, spec, run.shape);
  return run;
}

std::string config_hash(const Spec& spec) {
  Spec copy = spec;
  return core::hash_text(core::to_yaml(core::to_node(copy, /*identity_only=*/true)));
}

void identify(Run& run, Resources& resources) {
  const Spec& spec = run.spec();
  core::Hasher hasher;
  hasher.update(
      fmt::format("{} {} {}", config_hash(spec), resources.model_hash(*run.files), run.files->tokenizer->hash()));
  const auto add_texts = [&](bool of_lists) {
    for (const Measurement& one : run.measurements) {
      if (one.is_list == of_lists) hasher.update(one.prepared->token_hash);
    }
  };
  if (run.quantizes()) {
    for (const std::string& file : spec.quant.chosen().files()) hasher.update(resources.file_hash(file));
    if (!spec.calibration.imatrix.empty()) hasher.update(resources.file_hash(imatrix_file(spec)));
  }
  add_texts(true);  // in this order, so that finished runs keep their ids
  if (run.calibration != nullptr) hasher.update(run.calibration->token_hash);
  add_texts(false);
  if (run.training != nullptr) hasher.update(run.training->token_hash());
  run.id = hasher.hex().substr(0, 16);
  run.directory = spec.out + "/" + spec.name + "/" + run.id;
}

}  // namespace experiments
