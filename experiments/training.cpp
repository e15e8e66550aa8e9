#include "experiments/training.h"

#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "core/progress.h"
#include "experiments/measure/final_states.h"
#include "experiments/resume.h"
#include "experiments/version.h"
#include "models/registry.h"
#include "quant/qat/tune_model.h"

// A value that may be missing is null.
template <typename T>
struct nlohmann::adl_serializer<std::optional<T>> {
  static void to_json(json& out, const std::optional<T>& value) { out = value ? json(*value) : json(nullptr); }
  static void from_json(const json& in, std::optional<T>& value) {
    value = in.is_null() ? std::nullopt : std::optional<T>(in.get<T>());
  }
};

namespace experiments {

NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(TrainingReport, steps, kept_step, stopped, objective, tokens, trained_parameters,
                                   trained_bits, floated_zeros, held_out_before, held_out_after)

namespace {

at::Tensor ids_of(const core::Windows& windows) {  // [N, T] int64
  return at::from_blob(const_cast<int32_t*>(windows.ids.data()), {windows.count, windows.seq_len}, at::kInt)
      .to(at::kLong);
}

// What the full-precision model makes of some windows: hidden states behind its last block.
class Taught {
 public:
  // windows: of ids [N, T], each once.
  Taught(const Spec& spec, const ModelFiles& files, const at::Tensor& ids, const std::vector<int64_t>& windows)
      : states_(static_cast<int64_t>(windows.size())) {
    const at::NoGradGuard no_gradient;
    const core::Weights weights = weights_of(spec, files);
    const auto model = models::build(files.config);
    const auto source = exports::open_source(*model, files.directory, weights, residency_of(spec, weights));
    model->load_ends(weights);
    for (size_t i = 0; i < windows.size(); ++i) {
      place_[windows[i]] = static_cast<int64_t>(i);
      states_.put(static_cast<int64_t>(i), model->embed(ids.narrow(0, windows[i], 1).to(weights.device())));
    }
    core::Progress bar("full precision on the training text", spec.quiet);
    core::walk(*model, *source, {}, {.quantized = &states_},
               [&](int64_t done, int64_t total) { bar.update(done, total); });
  }

  at::Tensor operator()(int64_t window) const { return states_.get(place_.at(window))[0]; }  // [T, D]

 private:
  core::HiddenStore states_;  // one window per batch
  std::map<int64_t, int64_t> place_;
};

std::vector<int64_t> seen_windows(const quant::QatConfig& config, int64_t windows, uint64_t seed) {
  std::set<int64_t> seen;
  for (const auto& batch : quant::batches_of(config, windows, seed)) seen.insert(batch.begin(), batch.end());
  return {seen.begin(), seen.end()};
}

std::vector<int64_t> all_windows(int64_t count) {
  std::vector<int64_t> all(count);
  for (int64_t i = 0; i < count; ++i) all[i] = i;
  return all;
}

std::shared_ptr<const quant::Decoder> remade(const quant::Decoder& decoder, const quant::WeightConfig& weight,
                                             int64_t in_features, int64_t out_features) {
  const std::string& path = decoder.place().path;
  return replication::restored_decoder(weight, decoder.replication(), decoder.place(), {out_features, in_features},
                                       path);
}

std::string report_file(const std::string& directory) { return progress_directory(directory) + "/qat.json"; }

void log(const TrainingReport& report) {
  spdlog::info("qat: {} parameters trained on {} tokens in {} steps; kept is step {}", report.trained_parameters,
               report.tokens, report.steps, report.kept_step);
  if (!report.stopped.empty()) spdlog::warn("qat: training ended {}", report.stopped);
  if (report.floated_zeros > 0)
    spdlog::info("qat: integer zero points of {} linears were trained: they are float ones now, and stored as such",
                 report.floated_zeros);
  if (report.held_out_before && report.held_out_after)
    spdlog::info("qat: {} on held-out text {:.4f} -> {:.4f}", report.objective, *report.held_out_before,
                 *report.held_out_after);
}

}  // namespace

std::string untrained_directory(const std::string& directory) { return directory + "/untrained"; }

TrainingReport train(const Spec& spec, Inputs& inputs, const ModelFiles& files, const std::string& directory) {
  const std::string checkpoint = directory + "/checkpoint", untrained = untrained_directory(directory);
  if (exports::is_quantized_checkpoint(checkpoint))
    return nlohmann::json::parse(core::read_file(report_file(directory))).get<TrainingReport>();

  // 1. What the full-precision model makes of the windows that will be seen.
  const auto seed = static_cast<uint64_t>(spec.seed);
  const auto model = models::build(files.config);
  const TrainingText& text = *inputs.training(files, spec, model->shape());
  const bool taught = spec.qat.model_objective() != "ce";
  quant::ModelLesson lesson{.text = {ids_of(text.train), {}}, .held_out = {}, .teacher = {}};
  std::shared_ptr<const Taught> of_text, of_held_out;
  if (taught) {
    of_text = std::make_shared<Taught>(spec, files, lesson.text.ids, seen_windows(spec.qat, text.train.count, seed));
    lesson.text.taught = [of_text](int64_t window) { return (*of_text)(window); };
  }
  if (text.held_out) {
    lesson.held_out.ids = ids_of(*text.held_out);
    if (taught) {
      of_held_out = std::make_shared<Taught>(spec, files, lesson.held_out.ids, all_windows(text.held_out->count));
      lesson.held_out.taught = [of_held_out](int64_t window) { return (*of_held_out)(window); };
    }
  }

  // 2. The quantized model, all of it: its weights are codes.
  const core::Weights weights(std::make_shared<const core::Checkpoint>(core::Checkpoint::open(untrained)),
                              dtype_of(spec), device_of(spec));
  const auto source = exports::open_source(*model, untrained, weights, exports::Residency::resident);
  exports::load_ends(*model, untrained, weights);
  for (int64_t i = 0; i < model->shape().layers; ++i) source->load(*model, i);
  const FinalLayers layers(*model, weights_of(spec, files));
  lesson.teacher.logits = [&](const at::Tensor& hidden) { return layers.logits(hidden); };

  // 3. Train.
  quant::Training training(quant::trainable_modules(*model), spec.qat.kinds(), remade);
  const std::string codes = training.code_hash();
  core::Progress bar("qat", spec.quiet);
  const quant::Trained trained = quant::tune_model(spec.qat, *model, training, lesson, seed,
                                                   {progress_directory(directory) + "/qat.safetensors",
                                                    [&](int64_t done, int64_t total) { bar.update(done, total); }});
  training.finish();
  TORCH_CHECK(training.code_hash() == codes, "training has changed codes");

  // 4. Keep what came of it.
  const TrainingReport report{.steps = trained.steps,
                              .kept_step = trained.kept,
                              .stopped = trained.stopped,
                              .objective = spec.qat.model_objective(),
                              .tokens = trained.steps * spec.qat.batch * text.train.seq_len,
                              .trained_parameters = training.values(),
                              .trained_bits = training.stored_bits(),
                              .floated_zeros = training.floated_zeros(),
                              .held_out_before = trained.held_out_before,
                              .held_out_after = trained.held_out_after};
  core::write_atomically(directory + "/qat_log.csv", quant::log_csv(trained.log));
  core::write_atomically(report_file(directory), nlohmann::json(report).dump(2) + "\n");
  exports::Save save(untrained, weights, checkpoint, commit());
  core::walk(*model, *source, {&save}, {});
  log(report);
  return report;
}

}  // namespace experiments
