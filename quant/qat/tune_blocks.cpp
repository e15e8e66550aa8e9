#include "quant/qat/tune_blocks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/plan_stream.h"
#include "quant/qat/batches.h"

namespace quant {

namespace {

// Of the median sum of squares: what a token's own counts at least, so that none of almost nothing outweighs the
// others.
constexpr double kLeastShare = 1e-3;
constexpr double kSmallest = 1e-20;  // where all of them are 0

// Windows of hidden states in batches [B, T, D], one by one.
std::vector<std::pair<int64_t, int64_t>> windows_of(const core::HiddenStore& store, int64_t first, int64_t last) {
  std::vector<std::pair<int64_t, int64_t>> windows;  // batch, row
  for (int64_t i = first; i < last; ++i) {
    const int64_t rows = store.get(i).size(0);
    for (int64_t row = 0; row < rows; ++row) windows.emplace_back(i, row);
  }
  return windows;
}

}  // namespace

at::Tensor block_loss(const std::string& objective, const at::Tensor& y, const at::Tensor& wanted) {
  const at::Tensor target = wanted.to(at::kFloat), error = at::square(y.to(at::kFloat) - target);
  if (objective == "block_mse") return error.mean() / at::square(target).mean();
  const at::Tensor size = at::square(target).sum(-1);
  const at::Tensor middle = size.flatten().median();  // massive tokens do not move it
  return (error.sum(-1) / size.maximum(kLeastShare * middle).clamp_min(kSmallest)).mean();
}

namespace {

class BlockObjective : public TrainingObjective {
 public:
  BlockObjective(const QatConfig& config, const core::BlockContext& context, uint64_t seed)
      : objective_(config.block_objective()),
        model_(context.model),
        first_(context.step),
        last_(core::end_of_run(context.model.plan(), context.step)),
        inputs_(context.all->quantized),
        outputs_(context.full_outputs) {
    TORCH_CHECK(inputs_ != nullptr && outputs_ != nullptr, "training of blocks needs both streams");
    first_held_out_ = inputs_->batches() - context.all->held_out;
    windows_ = windows_of(*inputs_, 0, first_held_out_);
    batches_ = batches_of(config.steps, config.batch, static_cast<int64_t>(windows_.size()),
                          seed + static_cast<uint64_t>(context.index));
  }

  double backward(int64_t step) override {
    std::vector<at::Tensor> x, y;
    for (const int64_t window : batches_[step]) {
      const auto [batch, row] = windows_[window];
      x.push_back(inputs_->get(batch)[row]);
      y.push_back(outputs_->get(batch)[row]);
    }
    const c10::AutoGradMode gradients(true);
    const at::Tensor loss = block_loss(objective_, outputs(at::stack(x)), at::stack(y));
    if (const double value = loss.item<double>(); !std::isfinite(value)) return value;
    loss.backward();
    return loss.item<double>();
  }

  std::optional<double> held_out_loss() override {
    if (first_held_out_ == inputs_->batches()) return std::nullopt;
    const at::NoGradGuard no_gradient;
    double sum = 0, rows = 0;
    for (int64_t i = first_held_out_; i < inputs_->batches(); ++i) {
      const at::Tensor x = inputs_->get(i);
      const auto count = static_cast<double>(x.size(0));
      sum += count * block_loss(objective_, outputs(x), outputs_->get(i)).item<double>();
      rows += count;
    }
    return sum / rows;
  }

 private:
  // Through all steps that run the block one after the other: [B, T, D] -> [B, T, D].
  at::Tensor outputs(at::Tensor hidden) const {
    const core::Plan& plan = model_.plan();
    std::vector<core::KeyValues> kept(last_ - first_);
    for (int64_t i = first_; i < last_; ++i) {
      const auto reads = [&](const core::Step& step) { return step.kv == i; };
      const bool is_read = std::any_of(plan.begin() + i, plan.begin() + last_, reads);
      hidden = model_.run(plan[i], hidden,
                          {.step = i,
                           .given = plan[i].kv == core::Step::kOwn ? nullptr : &kept.at(plan[i].kv - first_),
                           .kept = is_read ? &kept[i - first_] : nullptr});
    }
    return hidden;
  }

  std::string objective_;
  core::Model& model_;
  int64_t first_, last_;  // steps of the plan
  const core::HiddenStore *inputs_, *outputs_;
  int64_t first_held_out_;
  std::vector<std::pair<int64_t, int64_t>> windows_;  // that are trained on
  std::vector<std::vector<int64_t>> batches_;
};

}  // namespace

void TuneBlocks::block(core::BlockContext& context) {
  std::vector<torch::nn::Module*> modules{&context.block};
  if (core::runs_in_one_go(context.model.plan())) {
    for (core::Block* replica : context.model.replicas(context.index)) modules.push_back(replica);
  }
  Training training(modules, config_.kinds(), format_factory_, config_.code_training());
  const std::string codes = training.code_hash();
  BlockObjective objective(config_, context, seed_);
  Trained trained = optimize(config_, training, objective, {});
  training.finish();
  TORCH_CHECK(config_.trains_codes() || training.code_hash() == codes, "training has changed codes of block ",
              context.index);
  reports_.push_back(
      {context.index, std::move(trained), training.values(), training.stored_bits(), training.floated_zeros()});
}

std::string TuneBlocks::record() const {
  if (reports_.empty()) return {};
  const Report& last = reports_.back();
  return nlohmann::json{{"block", last.block},
                        {"trained", to_text(last.trained)},
                        {"values", last.values},
                        {"stored_bits", last.stored_bits},
                        {"floated_zeros", last.floated_zeros}}
      .dump();
}

void TuneBlocks::restore(const std::string& record) {
  const nlohmann::json json = nlohmann::json::parse(record);
  reports_.push_back(
      {json["block"], trained_from_text(json["trained"]), json["values"], json["stored_bits"], json["floated_zeros"]});
}

}  // namespace quant
