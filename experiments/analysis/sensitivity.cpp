#include "experiments/analysis/sensitivity.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>

#include "core/batches.h"
#include "core/io/csv.h"
#include "core/nn/cross_entropy.h"
#include "core/progress.h"
#include "experiments/analysis/experts.h"
#include "experiments/inputs/assignments.h"
#include "experiments/inputs/cache_key.h"
#include "experiments/inputs/calibration_text.h"
#include "models/registry.h"
#include "quant/stage/apply_transforms.h"

namespace experiments {

namespace {

using replication::OutputErrors;
using replication::RankingStatistics;
using replication::Selection;

constexpr const char* kNumbers = "errors.json";

// What a walk that only measures goes over.
struct Walked {
  std::shared_ptr<core::Model> model;
  core::Weights weights;

  Walked(const Spec& spec, const ModelFiles& files)
      : model(models::build(files.config)), weights(weights_of(spec, files)) {
    model->load_embedding_and_head(weights);
  }
};

// The plain grids of the configuration, each with the Hessian of its inputs.
std::vector<quant::Assignment> with_hessians(const Spec& spec, core::Model& model) {
  std::vector<quant::Assignment> plain = assignments(spec, model);
  for (quant::Assignment& a : plain) a.needs.hessian = a.needs.hessian || a.format != nullptr;
  return plain;
}

OutputErrors measured_errors(const Spec& spec, const ModelFiles& files, const core::Windows& text) {
  const Walked walked(spec, files);
  const std::string& method = spec.quant.method;
  const bool propagates = spec.calibration.propagate_error;
  const std::vector<quant::Assignment> plain = with_hessians(spec, *walked.model);
  quant::Quantize stage(
      spec.quant.methods.at(method).share(), method, plain,
      {.propagate_error = propagates, .true_sequential = spec.is_sequential(), .correction = correction_of(spec)});
  quant::ApplyTransforms transform(quant::transforms_of(spec.transform, spec.quant), plain, propagates);
  const auto embed = [&] { return embedded(*walked.model, text, spec.calibration.batch_tokens); };
  std::optional<core::HiddenStore> full, quantized;
  if (stage.reads_full_stream()) full.emplace(embed());
  if (propagates)
    stage.quantize_embedding_and_head(*walked.model);  // the first block then sees the quantized embedding
  if (propagates) quantized.emplace(embed());
  core::StreamedSource source(walked.weights);  // what the stage made of a block is dropped with it
  core::Progress bar("sensitivity", spec.quiet);
  core::walk(*walked.model, source, {&transform, &stage},
             {.full = full ? &*full : nullptr, .quantized = quantized ? &*quantized : nullptr},
             [&](int64_t done, int64_t total) { bar.update(done, total); });
  return errors_of(stage.reports());
}

// Where the errors of a run without replication are kept.
core::CacheKey errors_key(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text,
                          const std::string& stage = "sensitivity") {
  std::vector<const core::Section*> keys{&spec.calibration, &spec.quant};
  for (const quant::TransformItem& item : spec.transform) keys.push_back(&item);
  const Dependencies on{
      .stage = stage,
      .version = kSensitivityVersion,
      .keys = std::move(keys),
      .inputs = {{"model", resources.model_hash(files)},
                 {"tokens", text.token_hash},
                 {"quantize", std::to_string(quant::Quantize::kVersion)},
                 {"transform", std::to_string(quant::ApplyTransforms::kVersion)},
                 {"seed", std::to_string(spec.seed)},
                 {"imatrix", spec.calibration.imatrix.empty() ? "" : resources.file_hash(imatrix_file(spec))}}};
  return cache_key(spec, on);
}

std::string as_text(const OutputErrors& errors) {
  nlohmann::json numbers = nlohmann::json::object();
  for (const auto& [path, found] : errors) numbers[path] = {found.error, found.energy};
  return numbers.dump();
}

OutputErrors kept_errors(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text) {
  core::CacheEntry entry = resources.cache().open(errors_key(spec, resources, files, text));
  if (!entry.complete()) {
    entry.write(kNumbers, as_text(measured_errors(spec, files, text)));
    entry.commit();
  }
  OutputErrors errors;
  const nlohmann::json numbers = nlohmann::json::parse(entry.read(kNumbers));
  for (const auto& [path, found] : numbers.items()) errors[path] = {found.at(0), found.at(1)};
  return errors;
}

// The single replica on full-precision inputs: errors of blocks before do not count, and weights are the model's own.
Spec ranked_by(const Spec& spec) {
  Spec plain = single_of(spec);
  plain.calibration.propagate_error = false;
  plain.calibration.true_sequential = "false";
  plain.calibration.targets = "weight";
  plain.transform.clear();
  return plain;
}

// ---- KL ----

// Carries, beside the full-precision stream, one stream per candidate in which that unit alone is quantized: it
// branches off where the unit is, and goes on through blocks in full precision.
class OneByOne : public core::Stage {
 public:
  OneByOne(quant::Quantize& quantize, std::vector<replication::Unit> units)
      : quantize_(quantize), units_(std::move(units)) {}

  std::string name() const override { return "one by one"; }
  int version() const override { return kSensitivityVersion; }

  void block(core::BlockContext& context) override {
    at::NoGradGuard no_gradient;
    for (auto& [unit, stream] : streams_) run(context, stream, stream);
    std::map<core::Slot*, std::shared_ptr<core::Linear>> original, quantized;
    for (core::Slot* slot : context.block.slots()) original[slot] = slot->pointer();
    quantize_.block(context);
    for (auto& [slot, linear] : original) {
      quantized[slot] = slot->pointer();
      slot->put(linear);
    }
    for (const replication::Unit& unit : units_) {
      bool here = false;
      for (auto& [slot, linear] : quantized) {
        if (!unit.linears.contains(slot->path())) continue;
        slot->put(linear);
        here = true;
      }
      if (!here) continue;
      core::HiddenStore stream(context.inputs.full->batches());
      run(context, *context.inputs.full, stream);
      streams_.emplace(unit.path, std::move(stream));
      for (auto& [slot, linear] : original) slot->put(linear);
    }
  }

  std::map<std::string, core::HiddenStore>& streams() { return streams_; }

 private:
  static void run(core::BlockContext& context, const core::HiddenStore& from, core::HiddenStore& to) {
    core::for_each_batch(from.batches(), from.get(0).numel(),
                         [&](int64_t i) { to.put(i, context.block.forward(from.get(i), {.step = context.step})); });
  }

  quant::Quantize& quantize_;
  std::vector<replication::Unit> units_;
  std::map<std::string, core::HiddenStore> streams_;  // by unit
};

// Mean KL(full ‖ other) over all positions, nats. Hidden states are those after the last block.
double mean_kl(core::Model& model, const core::HiddenStore& full, const core::HiddenStore& other) {
  constexpr int64_t kRows = 256;  // positions whose logits exist at a time
  std::vector<double> sums(full.batches(), 0.0);
  std::vector<int64_t> positions(full.batches(), 0);
  core::for_each_batch(full.batches(), full.get(0).numel(), [&](int64_t i) {
    const int64_t D = model.shape().width;
    const at::Tensor a = full.get(i).reshape({-1, D}), b = other.get(i).reshape({-1, D});
    for (int64_t t = 0; t < a.size(0); t += kRows) {
      const int64_t end = std::min(t + kRows, a.size(0));
      const at::Tensor logits = model.logits(b.slice(0, t, end));
      const at::Tensor none = at::zeros({end - t}, at::TensorOptions(at::kLong).device(logits.device()));
      const at::Tensor kl = core::divergence(model.logits(a.slice(0, t, end)), logits, none).kl.cpu().contiguous();
      const float* values = kl.const_data_ptr<float>();
      for (int64_t row = 0; row < kl.numel(); ++row) sums[i] += values[row];
    }
    positions[i] = a.size(0);
  });
  double sum = 0, count = 0;
  for (size_t i = 0; i < sums.size(); ++i) {
    sum += sums[i];
    count += static_cast<double>(positions[i]);
  }
  return sum / count;
}

std::map<std::string, double> measured_kl(const Spec& spec, const ModelFiles& files, const core::Windows& text,
                                          const std::vector<replication::Unit>& candidates) {
  const Walked walked(spec, files);
  const std::string& method = spec.quant.method;
  const std::set<std::string> linears = Selection::linears_of(candidates);
  std::vector<quant::Assignment> some;
  for (quant::Assignment& a : quant::assign(spec.quant, *walked.model, static_cast<uint64_t>(spec.seed))) {
    if (linears.contains(a.slot->path())) some.push_back(std::move(a));
  }
  quant::Quantize quantize(spec.quant.methods.at(method).share(), method, std::move(some), {.propagate_error = false});
  OneByOne stage(quantize, candidates);
  core::HiddenStore hidden = embedded(*walked.model, text, spec.calibration.batch_tokens);
  core::StreamedSource source(walked.weights);
  core::Progress bar("sensitivity by KL", spec.quiet);
  core::walk(*walked.model, source, {&stage}, {.full = &hidden},
             [&](int64_t done, int64_t total) { bar.update(done, total); });
  std::map<std::string, double> kl;
  for (auto& [unit, stream] : stage.streams()) kl[unit] = mean_kl(*walked.model, hidden, stream);
  return kl;
}

core::CacheKey kl_key(const Spec& plain, Resources& resources, const ModelFiles& files, const core::Windows& text,
                      std::vector<std::string> candidates) {
  core::CacheKey key = errors_key(plain, resources, files, text, "sensitivity_kl");
  std::sort(candidates.begin(), candidates.end());
  for (const std::string& unit : candidates) key.depends += "unit: " + unit + "\n";
  return key;
}

std::map<std::string, double> kept_kl(const Spec& plain, Resources& resources, const ModelFiles& files,
                                      const core::Windows& text, const std::vector<replication::Unit>& candidates) {
  core::CacheEntry entry = resources.cache().open(kl_key(plain, resources, files, text, paths_of(candidates)));
  if (!entry.complete()) {
    entry.write(kNumbers, nlohmann::json(measured_kl(plain, files, text, candidates)).dump());
    entry.commit();
  }
  return nlohmann::json::parse(entry.read(kNumbers)).get<std::map<std::string, double>>();
}

// What KL costs at most, wherever the candidates turn out to be: forward passes of a block over the text, and their
// multiply-accumulates per token.
struct KlCost {
  int64_t passes = 0;
  double macs = 0;
};
KlCost kl_cost(const Selection& select, core::Model& model, int64_t T) {
  std::vector<int64_t> blocks;  // of each unit: it runs through its own block and those behind it
  for (const replication::Unit& unit : select.units(model)) blocks.push_back(unit.block);
  KlCost cost;
  const size_t count = select.candidates == 0 ? blocks.size() : std::min<size_t>(blocks.size(), select.candidates);
  for (size_t unit = 0; unit < count; ++unit) {
    cost.passes += model.shape().layers - blocks[unit];
    for (int64_t i = blocks[unit]; i < model.shape().layers; ++i) cost.macs += macs_of_block(model, i, T);
  }
  return cost;
}

}  // namespace

OutputErrors errors_of(const std::vector<quant::ModuleReport>& reports) {
  OutputErrors errors;
  for (const quant::ModuleReport& report : reports) {
    if (!report.output_error) continue;
    errors[report.path] = {*report.output_error * *report.output_energy, *report.output_energy};
  }
  return errors;
}

OutputErrors single_errors(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text) {
  return kept_errors(single_of(spec), resources, files, text);
}

void keep_single_errors(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text,
                        const std::vector<quant::ModuleReport>& reports) {
  const OutputErrors errors = errors_of(reports);
  std::set<std::string> in_blocks;  // embedding and head have no errors
  const auto model = models::build(files.config);
  for (const core::Slot* slot : model->slots()) in_blocks.insert(slot->path());
  const bool all = std::all_of(reports.begin(), reports.end(), [&](const quant::ModuleReport& report) {
    return errors.contains(report.path) || report.bits == quant::WeightConfig::kFullPrecision ||
           !in_blocks.contains(report.path);
  });
  if (!all || errors.empty()) return;
  core::CacheEntry entry = resources.cache().open(errors_key(spec, resources, files, text));
  if (entry.complete()) return;
  entry.write(kNumbers, as_text(errors));
  entry.commit();
}

RankingStatistics ranking_statistics(const Spec& spec, Resources& resources, const ModelFiles& files,
                                     const core::Windows& text) {
  const Spec plain = ranked_by(spec);
  RankingStatistics found{.errors = kept_errors(plain, resources, files, text)};
  const Selection& select = spec.replication.select;
  if (select.of_experts() && select.is_ranked()) {
    for (const Expert& expert : experts_of(spec, resources, files, text)) {
      found.expert_error[expert.path] = expert.sensitivity();
      found.expert_frequency[expert.path] = expert.frequency;
    }
  }
  if (!select.by_kl()) return found;
  const auto model = models::build(files.config);
  found.kl = kept_kl(plain, resources, files, text, select.kl_candidates(*model, found.errors));
  return found;
}

std::vector<WalkCost> cost_of_ranking(const Spec& spec, Resources& resources, const ModelFiles& files,
                                      const core::Windows& text) {
  if (!spec.replication.ranks()) return {};
  const auto model = models::build(files.config);
  const Selection& select = spec.replication.select;
  const core::CacheKey key = errors_key(ranked_by(spec), resources, files, text);
  const bool cached = resources.cache().find(key).has_value();
  const auto tokens = static_cast<int64_t>(text.ids.size());
  double walk = 0;
  for (int64_t i = 0; i < model->shape().layers && !cached; ++i) {
    walk += static_cast<double>(tokens) * macs_of_block(*model, i, text.seq_len);
    walk +=
        macs_of_quantizing(*model, i, tokens, text.seq_len, /*hessian=*/true, [](const core::Slot&) { return true; });
  }
  std::vector<WalkCost> walks{
      {key.id(),
       fmt::format("sensitivity by output error: {} linears, one walk over {} blocks{}", model->slots().size(),
                   model->shape().layers, cached ? " (in the cache)" : ""),
       walk}};
  if (!select.by_kl()) return walks;
  const size_t units = select.units(*model).size();
  const size_t measured = select.candidates == 0 ? units : std::min<size_t>(units, select.candidates);
  const KlCost kl = kl_cost(select, *model, text.seq_len);
  const std::string line =
      fmt::format("sensitivity by KL: {} of {} {}s, at most {} forward passes of a block over {} tokens", measured,
                  units, select.unit, kl.passes, tokens);
  walks.push_back({key.id() + line, line, static_cast<double>(tokens) * kl.macs});
  return walks;
}

std::string sensitivity_csv(const Selection& select, core::Model& model, const RankingStatistics& statistics,
                            const std::set<std::string>& chosen) {
  core::CsvTable table({"unit", "output_error", "kl", "chosen"});
  for (const replication::Unit& unit : select.ranked(model, statistics)) {
    const auto kl = statistics.kl.find(unit.path);
    table.row(unit.path, Selection::error_of(unit.linears, statistics.errors).relative(),
              kl == statistics.kl.end() ? "" : core::csv_cell(kl->second), chosen.contains(unit.path) ? "yes" : "no");
  }
  return table.text();
}

}  // namespace experiments
