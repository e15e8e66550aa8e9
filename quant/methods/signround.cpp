// SignRound, the algorithm of AutoRound (Cheng et al. 2023, arXiv 2309.05516): all linears of a block are rounded
// together so that the block's outputs change least. Of every weight a nudge V in [-1/2, 1/2] is trained, of every
// group two factors α and β in (0, 1] on the ends of its range:
//   k = clamp(round(w / s + z + V)),  ŵ = s (k − z),  s and z from [α lo, β hi]
// by signed gradient descent, V ← V − η sign(∂L/∂V), with a rate η that falls linearly to 0, on L = the mean square of
// the change of the block's outputs on `batch` windows of the calibration text; gradients pass straight through
// roundings. The iterate of the least L is kept.
//
// The block gets the inputs that the quantized model gives it, and is trained for what the full-precision model makes
// there (`targets: full`, as in AutoRound's code), or for what the full-precision block makes of the same inputs.
//
// Different from AutoRound's code: the iterates' losses on different windows are not the last word; the best of them,
// the last one and rounding to nearest are compared on all windows, so the result is never worse there than rounding to
// nearest.
#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/batches.h"
#include "core/random.h"
#include "quant/grids/affine.h"
#include "quant/linear/swapped.h"
#include "quant/method.h"

namespace quant {

namespace {

constexpr double kNarrowest = 0.01;  // α and β: a range that is a point has no gradient

// What is trained of one linear: V [O, I], α and β [O, G].
struct Variables {
  at::Tensor nudge, low, high;

  Variables clone() const { return {nudge.detach().clone(), low.detach().clone(), high.detach().clone()}; }
};

// A linear while it is trained. Its weight follows from its variables, or is held.
class Rounded : public core::Linear {
 public:
  Rounded(const Target& target, bool trains_range)
      : Linear(target.slot->out_features(), target.slot->in_features()),
        inner_(target.slot->pointer()),
        grid_(dynamic_cast<const AffineGrid&>(*target.format)),
        input_(target.input),
        w_(inner_->weight().to(at::kFloat)),
        range_(grid_.range_of(w_, target.inputs)) {
    const auto trained = [](at::Tensor x, bool trains) { return x.set_requires_grad(trains); };
    values = {trained(at::zeros_like(w_), true), trained(at::ones_like(range_.lo), trains_range),
              trained(at::ones_like(range_.hi), trains_range)};
  }

  at::Tensor forward(const at::Tensor& x) override { return at::linear(quantized_input(x), weight(), bias()); }
  at::Tensor weight() const override {
    return (held_.defined() ? held_ : grid_.trainable(w_, range_with(values), values.nudge))
        .to(inner_->weight().scalar_type());
  }
  at::Tensor bias() const override { return inner_->bias(); }
  std::vector<core::State> state() const override { return inner_->state(); }
  core::Cost cost() const override { return inner_->cost(); }

  // The codes of these values, under the parameters as they are stored.
  Encoded encoded(const Variables& chosen) const {
    const int64_t O = out_features(), I = in_features();
    Parameters parameters = grid_.parameters_of(range_with(chosen), w_);
    const ElementGrid levels = grid_.element_grid(parameters, O, I);
    const std::vector<int64_t> grouped{O, levels.scale.size(1), levels.group_size};
    const at::Tensor position =
        w_.reshape(grouped) / levels.scale.unsqueeze(-1) + levels.shift.unsqueeze(-1) + chosen.nudge.reshape(grouped);
    return {at::round(position).clamp(0, levels.top).to(at::kByte).reshape({O, I}), std::move(parameters)};
  }
  void hold(const Encoded& encoded) { held_ = grid_.decode(encoded.codes, encoded.parameters); }

  Variables values;

 private:
  Range range_with(const Variables& chosen) const { return {range_.lo * chosen.low, range_.hi * chosen.high}; }
  at::Tensor quantized_input(const at::Tensor& x) const {
    return input_ == nullptr ? x : x + (input_->apply(x.detach()) - x).detach();
  }

  std::shared_ptr<core::Linear> inner_;
  const AffineGrid& grid_;
  std::shared_ptr<const InputQuantizer> input_;
  at::Tensor w_;  // [O, I] float32
  Range range_;   // [O, G]
  at::Tensor held_;
};

// The linears of a block while they are trained: in the slots as long as this lives.
class RoundingTraining {
 public:
  RoundingTraining(const std::vector<Target>& targets, bool trains_range) {
    for (const Target& target : targets) {
      named(target.slot->path(), [&] {  // a scale that its dtype cannot hold is said here, with the module's path
        linears.push_back(std::make_shared<Rounded>(target, trains_range));
        return Quantized{linears.back()->encoded(linears.back()->values.clone())};
      });
    }
    for (size_t i = 0; i < linears.size(); ++i) swapped_.put(*targets[i].slot, linears[i]);
  }

  std::vector<Variables> snapshot() const {
    std::vector<Variables> all;
    for (const auto& linear : linears) all.push_back(linear->values.clone());
    return all;
  }
  std::vector<Encoded> encoded(const std::vector<Variables>& values) const {
    std::vector<Encoded> all;
    for (size_t i = 0; i < linears.size(); ++i) all.push_back(linears[i]->encoded(values[i]));
    return all;
  }

  std::vector<std::shared_ptr<Rounded>> linears;

 private:
  Swapped swapped_;
};

// x ← clamp(x − rate · sign of its gradient), which is then forgotten. Where there is no gradient, x stays.
void step(at::Tensor& x, double rate, double low, double high) {
  if (!x.requires_grad() || !x.grad().defined()) return;
  at::NoGradGuard no_gradient;
  x.sub_(at::nan_to_num(at::sign(x.grad()), 0.0), rate).clamp_(low, high);
  x.mutable_grad() = at::Tensor();
}

double mean_square(const at::Tensor& a, const at::Tensor& b) {
  return at::square(a.to(at::kFloat) - b.to(at::kFloat)).mean().item<double>();
}

// A block with the text that it is trained on: hidden states in batches of [B, T, D], and what it should make of them.
class BlockReconstruction {
 public:
  BlockReconstruction(core::BlockContext& context, const core::HiddenStore& inputs,
                      const core::HiddenStore& seen_in_full)
      : block_(context.block), pass_{.step = context.step}, inputs_(inputs), wanted_(inputs.batches()) {
    TORCH_CHECK(inputs.batches() > 0 && seen_in_full.batches() == inputs.batches(), "signround needs the same windows");
    for_each([&](int64_t i) { wanted_.put(i, block_.forward(seen_in_full.get(i), pass_)); });
    for (int64_t i = 0; i < inputs.batches(); ++i) {
      const int64_t rows = inputs.get(i).size(0);
      for (int64_t row = 0; row < rows; ++row) windows_.emplace_back(i, row);
    }
  }

  // Mean square of the change of the outputs over all windows.
  double loss() {
    std::vector<double> each(inputs_.batches());
    double sum = 0, windows = 0;
    for_each([&](int64_t i) { each[i] = mean_square(block_.forward(inputs_.get(i), pass_), wanted_.get(i)); });
    for (int64_t i = 0; i < inputs_.batches(); ++i) {
      const auto rows = static_cast<double>(inputs_.get(i).size(0));
      sum += each[i] * rows;
      windows += rows;
    }
    return sum / windows;
  }

  // The same over `count` windows that `random` draws, with gradients.
  at::Tensor loss_of(int64_t count, core::Random& random) {
    count = std::min(count, static_cast<int64_t>(windows_.size()));
    std::vector<at::Tensor> x, y;
    for (int64_t i = 0; i < count; ++i) {  // Fisher and Yates, as far as it is needed
      std::swap(windows_[i], windows_[i + random.below(static_cast<int64_t>(windows_.size()) - i)]);
      x.push_back(inputs_.get(windows_[i].first)[windows_[i].second]);
      y.push_back(wanted_.get(windows_[i].first)[windows_[i].second]);
    }
    const at::Tensor outputs = block_.forward(at::stack(x), pass_);
    return at::square(outputs.to(at::kFloat) - at::stack(y).to(at::kFloat)).mean();
  }

 private:
  void for_each(const std::function<void(int64_t)>& work) const {
    core::for_each_batch(inputs_.batches(), inputs_.get(0).numel(), work);
  }

  core::Block& block_;
  core::Pass pass_;
  const core::HiddenStore& inputs_;
  core::HiddenStore wanted_;
  std::vector<std::pair<int64_t, int64_t>> windows_;  // batch, row
};

struct SignRound : Method {
  int64_t iterations = 200;
  int64_t batch = 8;
  double lr = 0;
  double minmax_lr = 0;
  bool tune_range = true;
  std::string targets = "full";

  std::string summary() const override {
    return "rounding and ranges of all linears of a block, trained by signed gradients of its output error";
  }
  void keys(core::Keys& k) override {
    k.key("iterations", iterations, "steps of signed gradient descent; 0: round to nearest", {0, 1000000});
    k.key("batch", batch, "calibration windows per step; all of them if there are fewer", {1, 1 << 20});
    k.key("lr", lr, "first rate of the rounding, in steps of the grid; it falls linearly to 0; 0: 1 / iterations",
          {0, 1});
    k.key("minmax_lr", minmax_lr, "first rate of the factors on a range; 0: as lr", {0, 1});
    k.key("tune_range", tune_range, "train the factors on both ends of each group's range too");
    k.key("targets", targets,
          "outputs of the full-precision block that the quantized one is trained for; full: on the inputs that the "
          "full-precision model gives it; same: on the inputs that the quantized one gets",
          {"full", "same"});
  }
  bool reads_inputs() const override { return true; }
  bool reads_full_inputs() const override { return targets == "full"; }
  std::string refuses(const WeightFormat& format, int64_t, int64_t) const override {
    if (dynamic_cast<const AffineGrid*>(&format) == nullptr)
      return fmt::format(
          "it trains the ranges of uniform grids, not the format {}. Set quant.weight.codebook: uniform.",
          format.name());
    if (format.config().rounding != "nearest")
      return "it chooses the rounding itself. Set quant.weight.rounding: nearest.";
    return {};
  }

  std::vector<Quantized> quantize(core::BlockContext& context, const std::vector<Target>& targets) const override {
    if (targets.empty()) return {};
    const core::Streams& streams = context.inputs;
    const core::HiddenStore* inputs = streams.quantized != nullptr ? streams.quantized : streams.full;
    TORCH_CHECK(inputs != nullptr, "signround runs the block, but the walk carries no inputs");
    BlockReconstruction reconstruction(context, *inputs, reads_full_inputs() ? *streams.full : *inputs);
    RoundingTraining training(targets, tune_range);
    const std::vector<Variables> nearest = training.snapshot();
    core::Random random(targets.front().format->place().seed, targets.front().slot->path(), "signround");
    const std::vector<Variables> best = train(training, reconstruction, random);
    return chosen(training, reconstruction, {nearest, best, training.snapshot()});
  }

 private:
  // Leaves the last values in `training`; returns those of the least loss.
  std::vector<Variables> train(RoundingTraining& training, BlockReconstruction& reconstruction,
                               core::Random& random) const {
    const c10::AutoGradMode gradients(true);
    const double rate = lr > 0 ? lr : 1.0 / static_cast<double>(std::max<int64_t>(1, iterations));
    const double range_rate = minmax_lr > 0 ? minmax_lr : rate;
    std::vector<Variables> best = training.snapshot();
    double least = core::kInfinity;
    for (int64_t i = 0; i < iterations; ++i) {
      const at::Tensor loss = reconstruction.loss_of(batch, random);
      if (const double found = loss.item<double>(); found < least) {
        least = found;
        best = training.snapshot();
      }
      loss.backward();
      const double left = 1 - static_cast<double>(i) / static_cast<double>(iterations);
      for (const auto& linear : training.linears) {
        step(linear->values.nudge, rate * left, -0.5, 0.5);
        step(linear->values.low, range_rate * left, kNarrowest, 1);
        step(linear->values.high, range_rate * left, kNarrowest, 1);
      }
    }
    return best;
  }

  // Of the candidates the one with the least loss over all windows; the first is rounding to nearest.
  static std::vector<Quantized> chosen(RoundingTraining& training, BlockReconstruction& reconstruction,
                                       const std::vector<std::vector<Variables>>& candidates) {
    std::vector<Encoded> best;
    double least = 0, nearest = 0;
    for (const auto& values : candidates) {
      std::vector<Encoded> encoded = training.encoded(values);
      for (size_t i = 0; i < encoded.size(); ++i) training.linears[i]->hold(encoded[i]);
      const double loss = reconstruction.loss();
      if (best.empty()) nearest = loss;
      if (!best.empty() && !(loss < least)) continue;
      least = loss;
      best = std::move(encoded);
    }
    const std::string note = fmt::format("block mse {:.3g}, of rtn {:.3g}", least, nearest);
    std::vector<Quantized> all;
    for (Encoded& encoded : best) all.push_back({std::move(encoded), {}, note});
    return all;
  }
};

}  // namespace

core::Polymorphic<Method> make_signround() { return SignRound{}; }

}  // namespace quant
