#include "quant/stage/quantize.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/error.h"
#include "core/io/json_optional.h"
#include "core/linalg.h"
#include "quant/columns/descent.h"
#include "quant/grids/scale_format.h"
#include "quant/linear/input_quantized_linear.h"
#include "quant/linear/quantized_linear.h"
#include "quant/linear/swapped.h"

namespace quant {

// Every field, so that a resumed walk reports finished blocks as if it had quantized them itself.
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(WeightShape, absmax, kurtosis, outlier_columns)
NLOHMANN_DEFINE_TYPE_NON_INTRUSIVE(ModuleReport, path, method, out_features, in_features, bits, groups, weight_error,
                                   output_error, output_energy, tokens, weight, input, seconds, fallback, note,
                                   imprecise_scales)

namespace {

// Stored bits per element of the bias. A linear that is quantized already (from a restored checkpoint) knows its own.
int64_t bias_bits(const core::Linear& linear) {
  if (!linear.bias().defined()) return 0;
  if (const auto* quantized = dynamic_cast<const QuantizedLinear*>(&linear)) return quantized->bias_bits();
  const core::Cost cost = linear.cost();
  return cost.dense_bits / (cost.weights + linear.out_features());
}

void add_note(std::string& notes, const std::string& note) {
  if (!note.empty()) notes += (notes.empty() ? "" : ", ") + note;
}

// The target's codes under the parameters that its refinement finds, if it has one; the codes stay what they are.
Quantized refined(const Target& target, Quantized result) {
  if (!target.refinement) return result;
  return named(target.slot->path(), [&] {
    const at::Tensor codes = result.encoded.codes;
    Refined made = target.refinement->refine(target.slot->linear().weight().to(at::kFloat), std::move(result.encoded),
                                             target.inputs);
    TORCH_CHECK(made.encoded.codes.is_same(codes), target.slot->path(), ": a refinement may not change codes");
    add_note(result.note, made.note);
    result.encoded = std::move(made.encoded);
    return result;
  });
}

// The codes of the method, improved where the target asks for it.
void improve(const Target& target, Quantized& made) {
  if (target.descent == 0 || !made.fallback.empty() || !target.inputs.hessian.defined()) return;
  Refined found =
      descended(target.slot->linear().weight(), *target.format, std::move(made.encoded), target.inputs, target.descent);
  made.encoded = std::move(found.encoded);
  add_note(made.note, found.note);
}

// What goes into the slot: codes, or the linear itself with quantized inputs. encoded: undefined without a format.
std::shared_ptr<core::Linear> quantized(const core::Slot& slot, const Target& target, Encoded encoded) {
  const core::Linear& linear = slot.linear();
  if (!target.format) return std::make_shared<InputQuantizedLinear>(slot.pointer(), target.input);
  const auto& format = target.refinement ? target.refinement->format() : target.format;
  auto made = std::make_shared<QuantizedLinear>(format, std::move(encoded), linear.bias(), bias_bits(linear),
                                                linear.weight().scalar_type());
  made->share_codes(target.codes_of);
  made->quantize_input(target.input);
  made->rotate(target.rotation);
  return made;
}

// The linear with another weight, which is rounded to its dtype. w: [O, I] float32.
std::shared_ptr<core::Linear> with_weight(const core::Linear& linear, const at::Tensor& w) {
  return std::make_shared<core::DenseLinear>(w.to(linear.weight().scalar_type()), linear.bias(), bias_bits(linear));
}

// The linear of a target with the mean of its weight and those of others.
std::shared_ptr<core::Linear> mean_of(const Target& target, const WeightOf& weight_of) {
  const core::Linear& linear = target.slot->linear();
  at::Tensor sum = linear.weight().to(at::kFloat);
  for (const std::string& path : target.mean_with) sum = sum + weight_of(path).to(at::kFloat);
  return with_weight(linear, sum / static_cast<double>(target.mean_with.size() + 1));
}

// The linear with the corrected weight, whose distance the target's note tells; null: it is coded as it is.
std::shared_ptr<core::Linear> corrected_linear(Target& target, const Correction& correction) {
  if (!target.inputs.cross.defined() || !target.fallback.empty()) return nullptr;
  const core::Linear& linear = target.slot->linear();
  const at::Tensor w = linear.weight().to(at::kFloat);
  const std::optional<at::Tensor> made = corrected(w, target.inputs, correction);
  target.inputs.cross.reset();  // nobody else reads it
  if (!made) {
    add_note(target.note, "not corrected: the Hessian is not positive definite");
    return nullptr;
  }
  const double norm = core::sum_of_squares(w), moved = core::sum_of_squares(*made - w);
  add_note(target.note, fmt::format("corrected by {:.3f}", norm > 0 ? std::sqrt(moved / norm) : 0.0));
  return with_weight(linear, *made);
}

// What is read from a file is finite; this is about what was made of it since.
void require_finite(const core::Slot& slot) {
  core::require(at::isfinite(slot.linear().weight()).all().item<bool>(),
                "{}: a weight is not finite, and no grid has a level for it. Check what was done to the model before.",
                slot.path());
}

// Σ (w − ŵ)² / Σ w²; the difference is taken in float32 whatever the compute dtype.
double relative_error(const at::Tensor& w, const at::Tensor& approximation) {
  const at::Tensor wide = w.cpu().to(at::kFloat);
  const double norm = core::sum_of_squares(wide);
  return norm > 0 ? core::sum_of_squares(wide - approximation.cpu().to(at::kFloat)) / norm : 0.0;
}

// tr(WHWᵀ): the mean square of the outputs, summed over them. w: [O, I].
double output_energy(const at::Tensor& w, const at::Tensor& hessian) {
  return at::sum(at::mm(w, hessian) * w).item<double>();
}

std::string as_text(WeightConfig config) { return core::to_yaml(core::to_node(config)); }

}  // namespace

WeightShape weight_shape(const at::Tensor& w) {
  const at::Tensor values = w.cpu().to(at::kFloat);
  at::Tensor powers = values - values.mean();  // in place: a weight may be large
  const double variance = at::mean(powers.square_()).item<double>();
  const double fourth = at::mean(powers.square_()).item<double>();
  powers.reset();
  return {.absmax = values.abs().max().item<double>(),
          .kurtosis = variance > 0 ? fourth / (variance * variance) : 0.0,
          .outlier_columns = outlier_columns(at::mean(at::square(values), 0))};
}

Quantize::Quantize(std::shared_ptr<const Method> method, std::string method_name, std::vector<Assignment> assignments,
                   const Calibration& calibration, EncodedOf encoded_of, WeightOf weight_of)
    : method_(std::move(method)),
      method_name_(std::move(method_name)),
      assignments_(std::move(assignments)),
      calibration_(calibration),
      encoded_of_(std::move(encoded_of)),
      weight_of_(std::move(weight_of)) {}

// By the method, or by another linear whose codes they are.
std::vector<Quantized> Quantize::encoded(core::BlockContext& context, const std::vector<Target>& targets) const {
  Swapped means;
  for (const Target& target : targets) {
    if (!target.mean_with.empty()) means.put(*target.slot, mean_of(target, weight_of_));
  }
  std::vector<Target> own;
  for (const Target& target : targets) {
    if (target.codes_of.empty() && target.fallback.empty()) own.push_back(target);
  }
  std::vector<Quantized> made = own.empty() ? std::vector<Quantized>{} : method_->quantize(context, own);
  for (size_t i = 0; i < made.size(); ++i) improve(own[i], made[i]);
  std::vector<Quantized> all;
  auto next = made.begin();
  for (const Target& target : targets) {
    if (!target.codes_of.empty()) {
      all.push_back({encoded_of_(target.codes_of), {}, "codes of " + target.codes_of});
    } else if (!target.fallback.empty()) {
      all.push_back(named(target.slot->path(), [&]() -> Quantized {
        return {round_to_nearest(target.slot->linear().weight().to(at::kFloat), *target.format, {}), target.fallback};
      }));
    } else {
      all.push_back(std::move(*next++));
    }
    add_note(all.back().note, target.note);
  }
  return all;
}

// The codes of targets, under the parameters that they are decoded with. What is coded and refined is the corrected
// weight where there is one.
std::vector<Quantized> Quantize::coded(core::BlockContext& context, std::vector<Target>& targets) const {
  Swapped turned;  // behind the rotation, where there is one: statistics are of rotated inputs
  for (Target& target : targets) {
    if (target.rotation == nullptr) continue;
    const core::Linear& linear = target.slot->linear();
    const std::string blocks = target.rotation->blocks();
    if (!blocks.empty()) add_note(target.note, "rotated in blocks: " + blocks);
    turned.put(*target.slot, with_weight(linear, target.rotation->coded(linear.weight().to(at::kFloat))));
  }
  Swapped all_corrected;
  for (Target& target : targets) {
    if (auto linear = corrected_linear(target, calibration_.correction)) all_corrected.put(*target.slot, linear);
  }
  std::vector<Quantized> results = encoded(context, targets);
  for (size_t i = 0; i < targets.size(); ++i) results[i] = refined(targets[i], std::move(results[i]));
  return results;
}

// Adds the linears that are to come into the slots, and a report of each. measuring: seconds per linear so far.
void Quantize::finish(core::BlockContext& context, std::vector<Target>& targets, double measuring, Finished& finished) {
  const auto start = std::chrono::steady_clock::now();
  Swapped in_memory;  // an expert of a streamed block is read once
  std::vector<Quantized> results(targets.size());
  if (targets.front().format) {
    for (const Target& target : targets) {
      in_memory.put(*target.slot, target.slot->in_memory());
      require_finite(*target.slot);
    }
    results = coded(context, targets);
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  for (size_t i = 0; i < targets.size(); ++i) {
    const auto linear = quantized(*targets[i].slot, targets[i], std::move(results[i].encoded));
    reports_.push_back(
        report(targets[i], results[i], *linear, measuring + seconds / static_cast<double>(targets.size())));
    finished.emplace_back(targets[i].slot, linear);
  }
}

void Quantize::block(core::BlockContext& context) {
  before_block_ = reports_.size();
  at::NoGradGuard no_gradient;
  Linears originals;  // stay where targets are corrected: the full-precision block runs with them
  if (corrects_targets()) {
    for (core::Slot* slot : context.block.slots()) originals[slot] = slot->pointer();
  }
  Finished finished;
  const auto put = [&] {
    for (auto& [slot, linear] : finished) slot->put(linear);
    finished.clear();
  };
  Pools pools;
  const auto finish_all = [&](std::vector<Group> round, double seconds) {
    std::vector<std::vector<Target>> portions = portions_of(std::move(round));
    size_t count = 0;
    for (const auto& targets : portions) count += targets.size();
    for (std::vector<Target>& targets : portions) {
      finish(context, targets, seconds / static_cast<double>(count), finished);
      targets.clear();  // their Hessian
    }
  };
  for (std::vector<Group>& round : rounds_of(context.block)) {
    const auto start = std::chrono::steady_clock::now();
    calibrate_inputs(context, round);
    measure(context, round, originals);
    add_further(round);
    fall_back(round, pools);
    finish_all(std::move(round), std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
    if (calibration_.true_sequential) put();
  }
  finish_all(pooled(pools), 0);
  put();  // not earlier: what is measured in a later round must not depend on what fits into one
}

ModuleReport Quantize::report(const Target& target, const Quantized& result, const core::Linear& linear,
                              double seconds) const {
  const core::Slot& slot = *target.slot;
  const at::Tensor w = slot.linear().weight();
  ModuleReport report{.path = slot.path(),
                      .method = target.format ? method_name_ : QuantConfig::kNone,
                      .out_features = slot.out_features(),
                      .in_features = slot.in_features(),
                      .bits = WeightConfig::kFullPrecision,
                      .groups = 0,
                      .weight_error = 0,
                      .output_error = {},
                      .output_energy = {},
                      .tokens = {},
                      .weight = weight_shape(w),
                      .input = {},
                      .seconds = seconds,
                      .fallback = result.fallback,
                      .note = result.note};
  if (const auto* coded = dynamic_cast<const QuantizedLinear*>(&linear)) {
    const at::Tensor approximation = coded->weight();
    report.bits = coded->codes().bits();
    report.groups = c10::multiply_integers(coded->parameters().front().shape);
    report.weight_error = relative_error(w, approximation);
    report.imprecise_scales = imprecise_scales(coded->parameters());
    if (target.inputs.hessian.defined()) {
      const at::Tensor wide = w.to(at::kFloat), &h = target.inputs.hessian;
      const auto turned = [&](const at::Tensor& m) { return target.rotation ? target.rotation->coded(m) : m; };
      const double whole = output_energy(turned(wide), h);  // h is of rotated inputs
      report.output_energy = whole;
      const at::Tensor difference = wide - approximation.to(at::kFloat);
      report.output_error = whole > 0 ? output_energy(turned(difference), h) / whole : 0.0;
    }
  }
  if (target.inputs.tokens > 0) {
    report.tokens = target.inputs.tokens;
    report.input = target.inputs.shape();
  }
  return report;
}

// ---- the ends ----

const Assignment* Quantize::assigned(const core::Slot& slot) const {
  const auto found = std::find_if(assignments_.begin(), assignments_.end(),
                                  [&](const Assignment& a) { return a.slot == &slot && a.format; });
  return found == assignments_.end() ? nullptr : &*found;
}

std::shared_ptr<core::Linear> Quantize::encode_end(core::Slot& slot, const Assignment& assignment,
                                                   const std::string& note) {
  const auto start = std::chrono::steady_clock::now();
  const Target target{&slot, assignment.format, assignment.input};
  require_finite(slot);
  const bool brought = method_->brings_codes();
  Quantized result = named(slot.path(), [&]() -> Quantized {
    if (brought) return {method_->encoded(slot, *assignment.format), {}, note};
    return {round_to_nearest(slot.linear().weight().to(at::kFloat), *assignment.format, {}), {}, note};
  });
  auto linear = quantized(slot, target, std::move(result.encoded));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  reports_.push_back(report(target, result, *linear, seconds));
  reports_.back().method = brought ? method_name_ : "rtn";
  return linear;
}

void Quantize::quantize_embedding_and_head(core::Model& model) {
  at::NoGradGuard no_gradient;
  const Assignment *embedding = assigned(model.embedding()), *head = assigned(model.head());
  const auto text = [](const Assignment& a) { return as_text(a.weight) + as_text(a.input.get()); };
  const auto place = [&](const Assignment& a) {
    const auto brought = method_->brought(*a.slot);
    return brought ? brought->place : std::string();
  };
  const bool shared = core::shares_embedding(model) && embedding != nullptr && head != nullptr &&
                      text(*embedding) == text(*head) && place(*embedding) == place(*head);
  std::shared_ptr<core::Linear> rows, outputs;
  if (embedding != nullptr) rows = encode_end(model.embedding(), *embedding, shared ? "shared with lm_head" : "");
  if (head != nullptr && !shared) outputs = encode_end(model.head(), *head, "");
  if (rows) model.embedding().put(rows);
  if (outputs) model.head().put(outputs);
  if (shared) model.head().put(rows);
  before_block_ = reports_.size();
}

std::string Quantize::record() const {
  return nlohmann::json(std::vector<ModuleReport>(reports_.begin() + before_block_, reports_.end())).dump();
}

void Quantize::restore(const std::string& record) {
  const auto reports = nlohmann::json::parse(record).get<std::vector<ModuleReport>>();
  reports_.insert(reports_.end(), reports.begin(), reports.end());
}

}  // namespace quant
