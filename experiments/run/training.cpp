#include "experiments/run/training.h"

#include <ATen/ATen.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "core/progress.h"
#include "experiments/measure/final_states.h"
#include "experiments/run/directories.h"
#include "experiments/run/version.h"
#include "models/registry.h"
#include "quant/qat/batches.h"
#include "quant/qat/tune_model.h"

namespace experiments {

namespace {

at::Tensor ids_of(const core::Windows& windows) {  // [N, T] int64
  return at::from_blob(const_cast<int32_t*>(windows.ids.data()), {windows.count, windows.seq_len}, at::kInt)
      .to(at::kLong);
}

// What the full-precision model makes of some windows: hidden states behind its last block.
class TeacherStates {
 public:
  // windows: of ids [N, T], each once.
  TeacherStates(const Spec& spec, const ModelFiles& files, const at::Tensor& ids, const std::vector<int64_t>& windows)
      : states_(static_cast<int64_t>(windows.size())) {
    const at::NoGradGuard no_gradient;
    const core::Weights weights = weights_of(spec, files);
    const auto model = models::build(files.config);
    const auto source = exports::open_source(*model, files.path, weights, residency_of(spec, weights));
    model->load_embedding_and_head(weights);
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
  for (const auto& batch : quant::batches_of(config.steps, config.batch, windows, seed))
    seen.insert(batch.begin(), batch.end());
  return {seen.begin(), seen.end()};
}

std::vector<int64_t> all_windows(int64_t count) {
  std::vector<int64_t> all(count);
  for (int64_t i = 0; i < count; ++i) all[i] = i;
  return all;
}

std::string part_file(const std::string& directory) { return progress_directory(directory) + "/qat.json"; }

void keep(const TrainingPart& part, const std::string& directory) {
  const nlohmann::json json{{"name", part.name},
                            {"objective", part.objective},
                            {"trained", quant::to_text(part.trained)},
                            {"tokens", part.tokens},
                            {"values", part.values},
                            {"stored_bits", part.stored_bits},
                            {"floated_zeros", part.floated_zeros}};
  core::write_atomically(part_file(directory), json.dump(2) + "\n");
}

TrainingPart kept(const std::string& directory) {
  const nlohmann::json json = nlohmann::json::parse(core::read_file(part_file(directory)));
  return {json["name"],         json["objective"], quant::trained_from_text(json["trained"]),
          json["tokens"],       json["values"],    json["stored_bits"],
          json["floated_zeros"]};
}

}  // namespace

TrainingPart train_model(const Run& run, const Spec& spec) {
  const ModelFiles& files = *run.files;
  const std::string& directory = run.directory;
  const std::string checkpoint = checkpoint_directory(directory), untrained = untrained_directory(directory);
  if (exports::is_quantized_checkpoint(checkpoint)) return kept(directory);

  // 1. What the full-precision model makes of the windows that will be seen.
  const auto seed = static_cast<uint64_t>(spec.seed);
  const auto model = models::build(files.config);
  const TrainingText& text = *run.training;
  const bool taught = spec.qat.model_objective() != "ce";
  quant::ModelTrainingData data{.text = {ids_of(text.train), {}}, .held_out = {}, .teacher = {}};
  std::shared_ptr<const TeacherStates> of_text, of_held_out;
  if (taught) {
    of_text =
        std::make_shared<TeacherStates>(spec, files, data.text.ids, seen_windows(spec.qat, text.train.count, seed));
    data.text.taught = [of_text](int64_t window) { return (*of_text)(window); };
  }
  if (text.held_out) {
    data.held_out.ids = ids_of(*text.held_out);
    if (taught) {
      of_held_out = std::make_shared<TeacherStates>(spec, files, data.held_out.ids, all_windows(text.held_out->count));
      data.held_out.taught = [of_held_out](int64_t window) { return (*of_held_out)(window); };
    }
  }

  // 2. The quantized model, all of it: its weights are codes.
  const core::Weights weights(std::make_shared<const core::Checkpoint>(core::Checkpoint::open(untrained)),
                              dtype_of(spec), device_of(spec));
  const auto source = exports::open_source(*model, untrained, weights, exports::Residency::resident);
  exports::load_embedding_and_head(*model, untrained, weights);
  for (const core::Step& step : model->plan()) source->load(*model, step.block);
  const FinalLayers layers(*model, weights_of(spec, files));
  data.teacher.logits = [&](const at::Tensor& hidden) { return layers.logits(hidden); };

  // 3. Train.
  quant::Training training(quant::trainable_modules(*model), spec.qat.kinds(), format_factory());
  const std::string codes = training.code_hash();
  core::Progress bar("qat", spec.quiet);
  quant::Trained trained = quant::tune_model(spec.qat, *model, training, data, seed,
                                             {progress_directory(directory) + "/qat.safetensors",
                                              [&](int64_t done, int64_t total) { bar.update(done, total); }});
  training.finish();
  TORCH_CHECK(training.code_hash() == codes, "training has changed codes");

  // 4. Keep what came of it.
  TrainingPart part{.name = "model",
                    .objective = spec.qat.model_objective(),
                    .trained = std::move(trained),
                    .values = training.values(),
                    .stored_bits = training.stored_bits(),
                    .floated_zeros = training.floated_zeros()};
  part.tokens = part.trained.steps * spec.qat.batch * text.train.seq_len;
  keep(part, directory);
  exports::Save save(untrained, weights, checkpoint, commit());
  replication::Average average(spec.replication);
  std::vector<core::Stage*> stages{&save};
  if (spec.replication.average) stages.insert(stages.begin(), &average);
  core::walk(*model, *source, stages, {});
  return part;
}

quant::FormatFactory format_factory() {
  return [](const quant::WeightFormat& format, const quant::WeightConfig& weight, int64_t in_features,
            int64_t out_features) {
    return replication::restored_format(weight, format.replication(), format.place(), {out_features, in_features},
                                        format.place().path);
  };
}

double seconds_of(const std::vector<TrainingPart>& parts) {
  double sum = 0;
  for (const TrainingPart& part : parts) sum += part.trained.log.empty() ? 0 : part.trained.log.back().seconds;
  return sum;
}

std::vector<TrainingPart> parts_of(const quant::TuneBlocks& blocks, const Spec& spec) {
  std::vector<TrainingPart> parts;
  for (const quant::TuneBlocks::Report& r : blocks.reports()) {
    parts.push_back({fmt::format("block {}", r.block), spec.qat.block_objective(), r.trained,
                     r.trained.steps * spec.qat.batch * spec.calibration.seq_len, r.values, r.stored_bits,
                     r.floated_zeros});
  }
  return parts;
}

namespace {

Json known(std::optional<double> value) { return value ? Json(*value) : Json(nullptr); }

// Of all blocks, or of the one model.
std::optional<double> mean(const std::vector<TrainingPart>& parts, std::optional<double> quant::Trained::*value) {
  double sum = 0;
  for (const TrainingPart& part : parts) {
    if (!(part.trained.*value)) return std::nullopt;
    sum += *(part.trained.*value);
  }
  return sum / static_cast<double>(parts.size());
}

// What the numbers beside `parts` are of: the model, else all blocks.
std::vector<TrainingPart> decisive(const std::vector<TrainingPart>& parts) {
  if (parts.back().name == "model") return {parts.back()};
  return parts;
}

int64_t sum(const std::vector<TrainingPart>& parts, int64_t TrainingPart::*value) {
  int64_t all = 0;
  for (const TrainingPart& part : parts) all += part.*value;
  return all;
}

double share(const std::vector<TrainingPart>& parts, int64_t total_bits) {
  return static_cast<double>(sum(decisive(parts), &TrainingPart::stored_bits)) / static_cast<double>(total_bits);
}

Json part_json(const TrainingPart& part) {
  return {{"name", part.name},
          {"objective", part.objective},
          {"steps", part.trained.steps},
          {"kept_step", part.trained.kept},
          {"stopped", part.trained.stopped.empty() ? Json(nullptr) : Json(part.trained.stopped)},
          {"held_out_before", known(part.trained.held_out_before)},
          {"held_out_after", known(part.trained.held_out_after)}};
}

}  // namespace

Json training_json(const std::vector<TrainingPart>& parts, int64_t total_bits) {
  if (parts.empty()) return nullptr;
  const std::vector<TrainingPart> counted = decisive(parts);
  Json list = Json::array();
  for (const TrainingPart& part : parts) list.push_back(part_json(part));
  return {{"objective", counted.back().objective},
          {"tokens", sum(parts, &TrainingPart::tokens)},
          {"trained_parameters", sum(counted, &TrainingPart::values)},
          {"trained_bits_share", share(parts, total_bits)},
          {"float_zero_points", sum(parts, &TrainingPart::floated_zeros)},
          {"held_out_before", known(mean(counted, &quant::Trained::held_out_before))},
          {"held_out_after", known(mean(counted, &quant::Trained::held_out_after))},
          {"parts", std::move(list)}};
}

std::string training_csv(const std::vector<TrainingPart>& parts) {
  core::CsvTable table({"part", "step", "loss", "held_out_loss", "lr", "grad_norm", "seconds"});
  const auto cell = [](std::optional<double> value) { return value ? core::csv_cell(*value) : std::string(); };
  for (const TrainingPart& part : parts) {
    for (const quant::LogRow& row : part.trained.log)
      table.row(part.name, row.step, cell(row.loss), cell(row.held_out), row.lr, row.grad_norm, row.seconds);
  }
  return table.text();
}

void report(const std::vector<TrainingPart>& parts, int64_t total_bits) {
  if (parts.empty()) return;
  const std::vector<TrainingPart> counted = decisive(parts);
  spdlog::info("qat: {} parameters were trained, {:.2f} % of all stored bits, on {} tokens",
               sum(counted, &TrainingPart::values), 100 * share(parts, total_bits), sum(parts, &TrainingPart::tokens));
  for (const TrainingPart& part : parts) {
    if (!part.trained.stopped.empty())
      spdlog::warn("qat: {}: training ended {} Kept is what {} steps made.", part.name, part.trained.stopped,
                   part.trained.kept);
  }
  if (const int64_t linears = sum(parts, &TrainingPart::floated_zeros); linears > 0)
    spdlog::info("qat: integer zero points of {} linears were trained: they are float ones now, and stored as such",
                 linears);
  const auto before = mean(counted, &quant::Trained::held_out_before),
             after = mean(counted, &quant::Trained::held_out_after);
  if (before && after)
    spdlog::info("qat: {} on held-out text {:.4f} -> {:.4f}", counted.back().objective, *before, *after);
}

}  // namespace experiments
