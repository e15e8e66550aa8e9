#include "experiments/sensitivity.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/io/csv.h"
#include "core/progress.h"
#include "experiments/cache_key.h"
#include "models/registry.h"
#include "quant/quantize.h"

namespace experiments {

namespace {

using Errors = std::map<std::string, replication::OutputError>;

constexpr const char* kNumbers = "errors.json";

Errors measured(const Spec& spec, const ModelFiles& files, const core::Windows& text) {
  const core::Weights weights = weights_of(spec, files);
  const auto model = models::build(files.config);
  const std::string& method = spec.quant.method;
  std::vector<quant::Assignment> plain = quant::assign(spec.quant, *model, static_cast<uint64_t>(spec.seed));
  for (quant::Assignment& a : plain) a.needs.hessian = a.needs.hessian || a.decoder != nullptr;
  quant::Quantize stage(spec.quant.methods.at(method), method, std::move(plain), {.propagate_error = false});
  model->load_ends(weights);
  core::HiddenStore hidden = embedded(*model, text, spec.calibration.batch_tokens);
  core::StreamedSource source(weights);  // what the stage made of a block is dropped with it
  core::Progress bar("sensitivity", spec.quiet);
  core::walk(*model, source, {&stage}, {.full = &hidden},
             [&](int64_t done, int64_t total) { bar.update(done, total); });
  Errors errors;
  for (const quant::ModuleReport& report : stage.reports()) {
    if (!report.output_error) continue;
    errors[report.path] = {*report.output_error * *report.output_energy, *report.output_energy};
  }
  return errors;
}

}  // namespace

Errors sensitivity(const Spec& spec, Inputs& inputs, const ModelFiles& files, const core::Windows& text) {
  const Dependencies on{.stage = "sensitivity",
                        .version = kSensitivityVersion,
                        .keys = {&spec.calibration, &spec.quant},
                        .inputs = {{"model", inputs.model_hash(files)},
                                   {"tokens", text.token_hash},
                                   {"quantize", std::to_string(quant::Quantize::kVersion)},
                                   {"seed", std::to_string(spec.seed)}}};
  core::CacheEntry entry = inputs.cache().open(cache_key(spec, on));
  if (!entry.complete()) {
    nlohmann::json numbers = nlohmann::json::object();
    for (const auto& [path, found] : measured(spec, files, text)) numbers[path] = {found.error, found.energy};
    entry.write(kNumbers, numbers.dump());
    entry.commit();
  }
  Errors errors;
  const nlohmann::json numbers = nlohmann::json::parse(entry.read(kNumbers));
  for (const auto& [path, found] : numbers.items()) errors[path] = {found.at(0), found.at(1)};
  return errors;
}

std::string sensitivity_csv(const replication::Selection& select, core::Model& model, const Errors& errors,
                            uint64_t seed) {
  const std::set<std::string> chosen = select.chosen_units(model, errors, seed);
  std::vector<std::string> units = select.units(model);
  std::stable_sort(units.begin(), units.end(), [&](const std::string& a, const std::string& b) {
    return select.error_of(a, errors).relative() > select.error_of(b, errors).relative();
  });
  core::CsvTable table({"unit", "output_error", "chosen"});
  for (const std::string& unit : units)
    table.row(unit, select.error_of(unit, errors).relative(), chosen.contains(unit) ? "yes" : "no");
  return table.text();
}

}  // namespace experiments
