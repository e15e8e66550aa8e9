#include "quant/quantize.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>

#include "core/linalg.h"
#include "quant/calibration.h"
#include "quant/quantized_linear.h"

// A value that may be missing is null.
template <typename T>
struct nlohmann::adl_serializer<std::optional<T>> {
  static void to_json(json& out, const std::optional<T>& value) { out = value ? json(*value) : json(nullptr); }
  static void from_json(const json& in, std::optional<T>& value) {
    value = in.is_null() ? std::nullopt : std::optional<T>(in.get<T>());
  }
};

namespace quant {

// Every field, so that a resumed walk reports finished blocks as if it had quantized them itself.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WeightShape, absmax, kurtosis, outlier_columns)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModuleReport, path, method, out_features, in_features, bits, groups, weight_error,
                                   output_error, weight, input, seconds, fallback, note)

namespace {

// Stored bits per element of the bias. A linear that is quantized already (from a restored checkpoint) knows its own.
int64_t bias_bits(const core::Linear& linear) {
  if (!linear.bias().defined()) return 0;
  if (const auto* quantized = dynamic_cast<const QuantizedLinear*>(&linear)) return quantized->bias_bits();
  const core::Cost cost = linear.cost();
  return cost.dense_bits / (cost.weights + linear.out_features());
}

// The target's codes under the parameters that its refinement finds, if it has one; the codes stay what they are.
Encoded refined(const Target& target, Quantized& result) {
  if (!target.refinement) return std::move(result.encoded);
  const at::Tensor codes = result.encoded.codes;
  Refined made = target.refinement->refine(target.slot->linear().weight().to(at::kFloat), std::move(result.encoded),
                                           target.inputs);
  TORCH_CHECK(made.encoded.codes.is_same(codes), target.slot->path(), ": a refinement may not change codes");
  if (!made.note.empty()) result.note += (result.note.empty() ? "" : ", ") + made.note;
  return std::move(made.encoded);
}

std::shared_ptr<QuantizedLinear> quantized(const core::Linear& linear, const Target& target, Encoded encoded) {
  const auto& decoder = target.refinement ? target.refinement->decoder() : target.decoder;
  auto made = std::make_shared<QuantizedLinear>(decoder, std::move(encoded), linear.bias(), bias_bits(linear),
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

// tr(ΔHΔᵀ) / tr(WHWᵀ): the share of the output's mean square that the error is. w, approximation: [O, I].
double relative_output_error(const at::Tensor& w, const at::Tensor& approximation, const at::Tensor& hessian) {
  const auto energy = [&](const at::Tensor& m) { return at::sum(at::mm(m, hessian) * m).item<double>(); };
  const at::Tensor wide = w.to(at::kFloat);
  const double whole = energy(wide);
  return whole > 0 ? energy(wide - approximation.to(at::kFloat)) / whole : 0.0;
}

// How inputs are quantized; "" when they are not.
std::string as_text(const InputQuantizer* input) {
  if (input == nullptr) return {};
  ActivationConfig config = input->config();
  return core::to_yaml(core::to_node(config));
}

}  // namespace

WeightShape weight_shape(const at::Tensor& w) {
  const at::Tensor values = w.cpu().to(at::kFloat);
  const at::Tensor centred = values - values.mean();
  const at::Tensor squares = at::square(centred);
  const double variance = at::mean(squares).item<double>();
  const double fourth = at::mean(at::square(squares)).item<double>();
  return {.absmax = values.abs().max().item<double>(),
          .kurtosis = variance > 0 ? fourth / (variance * variance) : 0.0,
          .outlier_columns = outlier_columns(at::mean(at::square(values), 0))};
}

Quantize::Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments,
                   const Calibration& calibration)
    : method_(std::move(method)),
      method_name_(std::move(method_name)),
      assignments_(std::move(assignments)),
      calibration_(calibration) {}

std::vector<Quantize::Group> Quantize::groups_of(core::Block& block) const {
  std::vector<Group> groups;
  for (const core::LinearGroup& linears : block.groups()) {
    std::map<std::string, Group> by_input;  // linears whose inputs are quantized differently see different inputs
    for (const Assignment& a : assignments_) {
      if (!a.decoder || std::count(linears.slots.begin(), linears.slots.end(), a.slot) == 0) continue;
      Group& group = by_input[as_text(a.input.get())];
      if (group.targets.empty()) group.name = a.slot->path() + "\n" + as_text(a.input.get());
      group.targets.push_back({a.slot, a.decoder, a.input, a.refinement});
      group.needs = group.needs | a.needs;
    }
    for (auto& [input, group] : by_input) groups.push_back(std::move(group));
  }
  return groups;
}

// Groups that are measured in one pass over the calibration text: all of the block unless the method wants them one
// after the other, or their Hessians together are too large.
std::vector<std::vector<Quantize::Group>> Quantize::rounds_of(core::Block& block) const {
  std::vector<std::vector<Group>> rounds;
  int64_t bytes = 0;
  for (Group& group : groups_of(block)) {
    const int64_t I = group.targets.front().slot->in_features();
    const int64_t hessian = group.needs.hessian ? I * I * static_cast<int64_t>(sizeof(float)) : 0;
    bytes += hessian;
    if (rounds.empty() || method_->true_sequential() || bytes > calibration_.hessian_bytes) {
      rounds.emplace_back();
      bytes = hessian;
    }
    rounds.back().push_back(std::move(group));
  }
  return rounds;
}

bool Quantize::reads_stream(core::Model& model) const {
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (const Group& group : groups_of(model.block(i))) {
      const bool kept = calibration_.store != nullptr && calibration_.store->has(group.name, group.needs);
      if (group.needs.any() && !kept) return true;
    }
  }
  return false;
}

void Quantize::measure(core::BlockContext& context, std::vector<Group>& round) const {
  std::vector<Tap> taps;
  std::vector<Group*> tapped;
  for (Group& group : round) {
    if (!group.needs.any()) continue;
    if (calibration_.store != nullptr) {
      if (auto found = calibration_.store->find(group.name, group.needs)) {
        const auto device = group.targets.front().slot->linear().weight().device();
        group.set(found->to(device));
        continue;
      }
    }
    taps.push_back({group.targets.front().slot, group.needs, group.targets.front().input});
    tapped.push_back(&group);
  }
  if (taps.empty()) return;
  const core::HiddenStore* inputs = calibration_.propagate_error ? context.inputs.quantized : context.inputs.full;
  core::require(inputs != nullptr || calibration_.store == nullptr,
                "{}: its statistics have left the cache since the run began. Run it again, or raise --cache-limit.",
                tapped.front()->targets.front().slot->path());
  TORCH_CHECK(inputs != nullptr, "statistics are needed, but the walk does not carry the stream to take them from");
  const std::vector<Statistics> measured = collect(context.block, {.step = context.step}, *inputs, taps);
  for (size_t i = 0; i < tapped.size(); ++i) {
    tapped[i]->set(measured[i]);
    if (calibration_.store != nullptr) calibration_.store->keep(tapped[i]->name, tapped[i]->needs, measured[i]);
  }
}

void Quantize::block(core::BlockContext& context) {
  before_block_ = reports_.size();
  at::NoGradGuard no_gradient;
  std::vector<std::pair<core::Slot*, std::shared_ptr<QuantizedLinear>>> finished;
  const auto put = [&] {
    for (auto& [slot, linear] : finished) slot->put(linear);
    finished.clear();
  };
  for (std::vector<Group>& round : rounds_of(context.block)) {
    const auto start = std::chrono::steady_clock::now();
    measure(context, round);
    std::vector<Target> targets;
    for (Group& group : round) targets.insert(targets.end(), group.targets.begin(), group.targets.end());
    round.clear();
    std::vector<Quantized> results = method_->quantize(context, targets);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    for (size_t i = 0; i < targets.size(); ++i) {
      const auto linear = quantized(targets[i].slot->linear(), targets[i], refined(targets[i], results[i]));
      reports_.push_back(report(targets[i], results[i], *linear, seconds / static_cast<double>(targets.size())));
      finished.emplace_back(targets[i].slot, linear);
    }
    if (method_->true_sequential()) put();
  }
  put();  // not earlier: what is measured in a later round must not depend on what fits into one
}

ModuleReport Quantize::report(const Target& target, const Quantized& result, const QuantizedLinear& linear,
                              double seconds) const {
  const core::Slot& slot = *target.slot;
  const at::Tensor w = slot.linear().weight(), approximation = linear.weight();
  ModuleReport report{.path = slot.path(),
                      .method = method_name_,
                      .out_features = slot.out_features(),
                      .in_features = slot.in_features(),
                      .bits = linear.codes().bits(),
                      .groups = c10::multiply_integers(linear.parameters().front().shape),
                      .weight_error = relative_error(w, approximation),
                      .output_error = {},
                      .weight = weight_shape(w),
                      .input = {},
                      .seconds = seconds,
                      .fallback = result.fallback,
                      .note = result.note};
  if (target.inputs.hessian.defined())
    report.output_error = relative_output_error(w, approximation, target.inputs.hessian);
  if (target.inputs.tokens > 0) report.input = target.inputs.shape();
  return report;
}

std::string Quantize::record() const {
  return nlohmann::json(std::vector<ModuleReport>(reports_.begin() + before_block_, reports_.end())).dump();
}

void Quantize::restore(const std::string& record) {
  const auto reports = nlohmann::json::parse(record).get<std::vector<ModuleReport>>();
  reports_.insert(reports_.end(), reports.begin(), reports.end());
}

}  // namespace quant
