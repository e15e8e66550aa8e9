#include "experiments/run/check_exports.h"

#include "core/error.h"
#include "quant/linear/rotation.h"

namespace experiments {

namespace {

// What the checkpoint will say of its linears.
exports::Manifest manifest_of(const std::vector<quant::Assignment>& assigned, const core::Plan& plan) {
  exports::Manifest manifest;
  manifest.plan = plan;
  for (const quant::Assignment& a : assigned) {
    const std::string& path = a.slot->path();
    if (a.format == nullptr) {
      if (a.input != nullptr) manifest.inputs[path] = {a.input->config(), 0};
      continue;
    }
    exports::QuantizedModule& module = manifest.modules[path];
    module = {a.format->name(), a.format->config(), "", 0, {}, a.format->replication()};
    if (a.rotation != nullptr) module.weight.incoherence = a.rotation->config();
    if (a.input != nullptr) module.activation = a.input->config();
  }
  return manifest;
}

}  // namespace

void check_exports(const Spec& spec, const ModelFiles& files, const std::shared_ptr<core::Model>& model,
                   const std::vector<quant::Assignment>& assigned) {
  const auto asked = spec.exports.asked();
  if (asked.empty()) return;
  core::require(assigned.empty() || spec.checkpoint == "keep",
                "{}: what is exported is read from the checkpoint. Use checkpoint: keep.", spec.where("exports"));
  const exports::ModelToExport described{files.path,
                                         files.config,
                                         files.tokenizer,
                                         weights_of(spec, files),
                                         model,
                                         manifest_of(assigned, model->plan()),
                                         spec.runtime.prefix.selected()};
  for (const auto& [name, exporter] : asked) {
    const std::string reasons = exports::refusal(name, *exporter, described);
    core::require(reasons.empty(), "{}: {}", spec.exports.where(name), reasons);
  }
}

}  // namespace experiments
