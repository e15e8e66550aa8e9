#include "quant/quantize.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

#include "core/linalg.h"
#include "quant/quantized_linear.h"

namespace quant {

// Every field, so that a resumed walk reports finished blocks as if it had quantized them itself.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WeightShape, absmax, kurtosis, outlier_columns)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModuleReport, path, method, out_features, in_features, bits, groups, weight_error,
                                   weight, seconds, fallback)

namespace {

// Stored bits per element of the bias. A linear that is quantized already (from a restored checkpoint) knows its own.
int64_t bias_bits(const core::Linear& linear) {
  if (!linear.bias().defined()) return 0;
  if (const auto* quantized = dynamic_cast<const QuantizedLinear*>(&linear)) return quantized->bias_bits();
  const core::Cost cost = linear.cost();
  return cost.dense_bits / (cost.weights + linear.out_features());
}

std::shared_ptr<QuantizedLinear> quantized(const core::Linear& linear, const Target& target, Encoded encoded) {
  auto made = std::make_shared<QuantizedLinear>(target.decoder, std::move(encoded), linear.bias(), bias_bits(linear),
                                                linear.weight().scalar_type());
  made->quantize_input(target.input);
  return made;
}

// Σ (w − ŵ)² / Σ w²; the difference is taken in float32 whatever the compute dtype.
double relative_error(const at::Tensor& w, const at::Tensor& approximation) {
  const at::Tensor wide = w.cpu().to(at::kFloat);
  const double norm = core::sum_of_squares(wide);
  return norm > 0 ? core::sum_of_squares(wide - approximation.cpu().to(at::kFloat)) / norm : 0.0;
}

}  // namespace

WeightShape weight_shape(const at::Tensor& w) {
  const at::Tensor values = w.cpu().to(at::kFloat);
  const at::Tensor centred = values - values.mean();
  const at::Tensor squares = at::square(centred);
  const double variance = at::mean(squares).item<double>();
  const double fourth = at::mean(at::square(squares)).item<double>();
  const at::Tensor column = at::sqrt(at::mean(at::square(values), 0));  // [I]
  return {.absmax = values.abs().max().item<double>(),
          .kurtosis = variance > 0 ? fourth / (variance * variance) : 0.0,
          .outlier_columns = at::mean((column > 3 * column.median()).to(at::kFloat)).item<double>()};
}

Quantize::Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments)
    : method_(std::move(method)), method_name_(std::move(method_name)), assignments_(std::move(assignments)) {}

void Quantize::block(core::BlockContext& context) {
  before_block_ = reports_.size();
  at::NoGradGuard no_gradient;
  const std::vector<core::Slot*> slots = context.block.slots();
  std::vector<Target> targets;
  for (const Assignment& a : assignments_) {
    if (a.decoder && std::count(slots.begin(), slots.end(), a.slot) > 0)
      targets.push_back({a.slot, a.decoder, a.input});
  }
  if (targets.empty()) return;  // method none has no object to ask
  const auto start = std::chrono::steady_clock::now();
  std::vector<Encoded> encoded = method_->quantize(context, targets);
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (size_t i = 0; i < targets.size(); ++i) {
    core::Slot& slot = *targets[i].slot;
    const at::Tensor w = slot.linear().weight();
    const auto linear = quantized(slot.linear(), targets[i], std::move(encoded[i]));
    reports_.push_back({.path = slot.path(),
                        .method = method_name_,
                        .out_features = slot.out_features(),
                        .in_features = slot.in_features(),
                        .bits = linear->codes().bits(),
                        .groups = c10::multiply_integers(linear->parameters().front().shape),
                        .weight_error = relative_error(w, linear->weight()),
                        .weight = weight_shape(w),
                        .seconds = seconds / static_cast<double>(targets.size()),
                        .fallback = {}});
    slot.put(linear);
  }
}

std::string Quantize::record() const {
  return nlohmann::json(std::vector<ModuleReport>(reports_.begin() + before_block_, reports_.end())).dump();
}

void Quantize::restore(const std::string& record) {
  const auto reports = nlohmann::json::parse(record).get<std::vector<ModuleReport>>();
  reports_.insert(reports_.end(), reports.begin(), reports.end());
}

}  // namespace quant
