#include "quant/calibration.h"

#include <ATen/ATen.h>

#include "quant/swapped.h"

namespace quant {

const core::HiddenStore& calibration_stream(const core::BlockContext& context, bool propagate_error) {
  const core::HiddenStore* inputs = propagate_error ? context.inputs.quantized : context.inputs.full;
  TORCH_CHECK(inputs != nullptr, "inputs are to be measured, but the walk does not carry the stream to take them from");
  return *inputs;
}

double outlier_columns(const at::Tensor& mean_square) {
  const at::Tensor rms = at::sqrt(mean_square);
  return at::mean((rms > 3 * rms.median()).to(at::kFloat)).item<double>();
}

WeightShape Statistics::shape() const {
  return {.absmax = absmax.max().item<double>(),
          .kurtosis = kurtosis,
          .outlier_columns = quant::outlier_columns(mean_square)};
}

Statistics Statistics::to(at::Device device) const {
  Statistics moved = *this;
  for (at::Tensor* tensor : {&moved.hessian, &moved.mean_square, &moved.mean_abs, &moved.absmax}) {
    if (tensor->defined()) *tensor = tensor->to(device);
  }
  return moved;
}

Statistics Statistics::divided(const at::Tensor& f) const {
  Statistics divided = *this;
  if (hessian.defined()) divided.hessian = hessian / (f.unsqueeze(1) * f);
  if (mean_square.defined()) divided.mean_square = mean_square / at::square(f);
  if (mean_abs.defined()) divided.mean_abs = mean_abs / f;
  if (absmax.defined()) divided.absmax = absmax / f;
  return divided;
}

// ---- Accumulator ----

void Accumulator::add(const at::Tensor& input) {
  const at::Tensor x = input.reshape({-1, input.size(-1)}).to(at::kFloat);  // [m, I]
  const int64_t m = x.size(0);
  if (m == 0) return;  // an expert that no token of this batch was sent to
  const int64_t features = x.size(1), before = sums_.tokens;
  if (before == 0) {
    sums_.mean_square = at::zeros({features}, x.options());
    sums_.absmax = at::zeros({features}, x.options());
    if (needs_.mean_abs) sums_.mean_abs = at::zeros({features}, x.options());
    if (needs_.hessian) sums_.hessian = at::zeros({features, features}, x.options());
  }
  sums_.tokens += m;
  const double keep = static_cast<double>(before) / static_cast<double>(sums_.tokens);
  const double share = 1.0 / static_cast<double>(sums_.tokens);
  if (needs_.hessian) sums_.hessian.addmm_(x.t(), x, keep, share);
  const at::Tensor square = at::square(x);
  sums_.mean_square.mul_(keep).add_(square.sum(0), share);
  const at::Tensor size = x.abs();
  if (needs_.mean_abs) sums_.mean_abs.mul_(keep).add_(size.sum(0), share);
  sums_.absmax = at::maximum(sums_.absmax, size.amax(0));
  const at::Tensor powers[] = {x, square, square * x, square * square};
  for (size_t i = 0; i < 4; ++i) powers_[i] += powers[i].sum().item<double>();
}

Statistics Accumulator::result() const {
  Statistics result = sums_;
  if (result.tokens == 0) return result;
  const double values = static_cast<double>(result.tokens) * static_cast<double>(result.mean_square.numel());
  const double m1 = powers_[0] / values, m2 = powers_[1] / values, m3 = powers_[2] / values, m4 = powers_[3] / values;
  const double variance = m2 - m1 * m1;
  const double fourth = m4 - 4 * m1 * m3 + 6 * m1 * m1 * m2 - 3 * m1 * m1 * m1 * m1;
  result.kurtosis = variance > 0 ? fourth / (variance * variance) : 0.0;
  return result;
}

// ---- the pass ----

namespace {

void record(Swapped& recorders, core::Slot& slot, core::RecordingLinear::Tap tap) {
  recorders.put(slot, std::make_shared<core::RecordingLinear>(slot.pointer(), std::move(tap)));
}

void run(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs) {
  at::NoGradGuard no_gradient;
  for (int64_t i = 0; i < inputs.batches(); ++i) block.forward(inputs.get(i), pass);
}

}  // namespace

std::vector<Statistics> collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
                                const std::vector<Tap>& taps) {
  std::vector<Accumulator> sums;
  for (const Tap& tap : taps) sums.emplace_back(tap.needs);
  {
    Swapped recorders;
    for (size_t i = 0; i < taps.size(); ++i) {
      record(recorders, *taps[i].slot, [&sum = sums[i], &tap = taps[i]](const at::Tensor& x) {
        sum.add(tap.input ? tap.input->apply(x) : x);
        if (tap.watch) tap.watch(x);
      });
    }
    run(block, pass, inputs);
  }
  std::vector<Statistics> results;
  for (const Accumulator& sum : sums) results.push_back(sum.result());
  return results;
}

void collect(core::Block& block, const core::Pass& pass, const core::HiddenStore& inputs,
             const std::vector<core::Slot*>& slots, std::vector<InputHistogram>& histograms) {
  Swapped recorders;
  for (size_t i = 0; i < slots.size(); ++i)
    record(recorders, *slots[i], [&histogram = histograms[i]](const at::Tensor& x) { histogram.add(x); });
  run(block, pass, inputs);
}

}  // namespace quant
