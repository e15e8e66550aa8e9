#include "quant/qat/tune_blocks.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <nlohmann/json.hpp>

#include "quant/qat/batches.h"

namespace quant {

namespace {

// Windows of hidden states in batches [B, T, D], one by one.
std::vector<std::pair<int64_t, int64_t>> windows_of(const core::HiddenStore& store, int64_t first, int64_t last) {
  std::vector<std::pair<int64_t, int64_t>> windows;  // batch, row
  for (int64_t i = first; i < last; ++i) {
    const int64_t rows = store.get(i).size(0);
    for (int64_t row = 0; row < rows; ++row) windows.emplace_back(i, row);
  }
  return windows;
}

class BlockLesson : public Lesson {
 public:
  BlockLesson(const QatConfig& config, const core::BlockContext& context, uint64_t seed)
      : block_(context.block),
        pass_{.step = context.step},
        inputs_(context.all->quantized),
        outputs_(context.full_outputs) {
    TORCH_CHECK(inputs_ != nullptr && outputs_ != nullptr, "training of blocks needs both streams");
    first_held_out_ = inputs_->batches() - context.all->held_out;
    windows_ = windows_of(*inputs_, 0, first_held_out_);
    batches_ = batches_of(config.steps, config.batch, static_cast<int64_t>(windows_.size()),
                          seed + static_cast<uint64_t>(context.index));
  }

  double learn(int64_t step) override {
    std::vector<at::Tensor> x, y;
    for (const int64_t window : batches_[step]) {
      const auto [batch, row] = windows_[window];
      x.push_back(inputs_->get(batch)[row]);
      y.push_back(outputs_->get(batch)[row]);
    }
    const c10::AutoGradMode gradients(true);
    const at::Tensor loss = relative_error(block_.forward(at::stack(x), pass_), at::stack(y));
    if (const double value = loss.item<double>(); !std::isfinite(value)) return value;
    loss.backward();
    return loss.item<double>();
  }

  std::optional<double> examine() override {
    if (first_held_out_ == inputs_->batches()) return std::nullopt;
    const at::NoGradGuard no_gradient;
    double sum = 0, rows = 0;
    for (int64_t i = first_held_out_; i < inputs_->batches(); ++i) {
      const at::Tensor x = inputs_->get(i);
      const auto count = static_cast<double>(x.size(0));
      sum += count * relative_error(block_.forward(x, pass_), outputs_->get(i)).item<double>();
      rows += count;
    }
    return sum / rows;
  }

 private:
  static at::Tensor relative_error(const at::Tensor& y, const at::Tensor& wanted) {
    const at::Tensor target = wanted.to(at::kFloat);
    return at::square(y.to(at::kFloat) - target).mean() / at::square(target).mean();
  }

  core::Block& block_;
  core::Pass pass_;
  const core::HiddenStore *inputs_, *outputs_;
  int64_t first_held_out_;
  std::vector<std::pair<int64_t, int64_t>> windows_;  // that are trained on
  std::vector<std::vector<int64_t>> batches_;
};

}  // namespace

void TuneBlocks::block(core::BlockContext& context) {
  Training training({&context.block}, config_.kinds(), remake_);
  const std::string codes = training.code_hash();
  BlockLesson lesson(config_, context, seed_);
  Trained trained = optimize(config_, training, lesson, {});
  training.finish();
  TORCH_CHECK(training.code_hash() == codes, "training has changed codes of block ", context.index);
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
