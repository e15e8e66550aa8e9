#include "experiments/analysis/training_cost.h"

#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "experiments/analysis/walk_cost.h"
#include "models/registry.h"
#include "quant/qat/batches.h"

namespace experiments {

namespace {

constexpr double kBackward = 2;  // of a product, relative to its forward pass: for its input and for its weight

double seconds_of_training(const Row& row) {
  double seconds = 0;
  for (const StageRecord& stage : row.stages()) seconds += stage.name == "qat" ? stage.seconds : 0;
  return seconds;
}

}  // namespace

double training_macs(const Spec& spec, const TrainingText& text, core::Model& model) {
  const quant::QatConfig& qat = spec.qat;
  const auto head = static_cast<double>(model.shape().vocabulary * model.shape().width);
  const auto steps = static_cast<double>(qat.steps), batch = static_cast<double>(qat.batch);
  const double looks = steps / static_cast<double>(qat.eval_every) + 1;
  double all = 0;
  const auto held_out = static_cast<double>(text.held_out ? text.held_out->count * text.held_out->seq_len : 0);
  if (qat.tunes_blocks()) {
    const auto T = static_cast<double>(spec.calibration.seq_len);
    for (const core::Step& step : model.plan()) {
      const double one =
          macs_of_block(model, step.block, spec.calibration.seq_len, step.only) * static_cast<double>(step.parallel);
      all += one * (steps * batch * T * (1 + kBackward) + looks * held_out);
    }
  }
  if (qat.tunes_model()) {
    const int64_t T = text.train.seq_len;
    const bool taught = qat.model_objective() != "ce";
    double forward = 0, teacher = 0;  // of a token, without the head
    for (const core::Step& step : model.plan())
      forward += macs_of_block(model, step.block, T, step.only) * static_cast<double>(step.parallel);
    for (int64_t i = 0; i < model.shape().layers; ++i) teacher += macs_of_block(model, i, T);
    const double heads = qat.model_objective() == "hidden" ? 0 : head, others = taught ? heads : 0;
    const double of_step = forward * (1 + kBackward + (qat.recompute ? 1 : 0)) + heads * (1 + kBackward) + others;
    all += steps * batch * static_cast<double>(T) * of_step + looks * held_out * (forward + heads + others);
    std::set<int64_t> seen;
    for (const auto& windows :
         quant::batches_of(qat.steps, qat.batch, text.train.count, static_cast<uint64_t>(spec.seed)))
      seen.insert(windows.begin(), windows.end());
    if (taught) all += teacher * (static_cast<double>(seen.size()) * static_cast<double>(T) + held_out);
  }
  return all;
}

void TrainingCost::add(const Spec& spec, const ModelFiles& files, const TrainingText& text, const core::Plan& plan,
                       const std::optional<Row>& finished) {
  const auto model = models::build(files.config);
  model->follow(plan);
  const double macs = training_macs(spec, text, *model);
  if (!finished) {
    ++runs_;
    to_do_ += macs;
    width_ = std::max(width_, model->shape().width);
    rows_ = std::max(rows_, std::min<int64_t>(4096, spec.qat.batch * training_length(spec)));
  } else if (const double seconds = seconds_of_training(*finished); seconds > 0) {
    ++finished_;
    done_ += macs;
    seconds_ += seconds;
  }
}

std::vector<std::string> TrainingCost::lines() const {
  if (runs_ == 0) return {};
  const std::string runs = fmt::format("training: {} run{}", runs_, runs_ == 1 ? "" : "s");
  if (finished_ > 0)
    return {
        fmt::format("{}, about {}, by the speed of {} finished", runs, duration(to_do_ / done_ * seconds_), finished_)};
  return {runs + ", " + time_of(to_do_, rows_, width_)};
}

}  // namespace experiments
