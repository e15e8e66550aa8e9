#include "quant/grids/activation.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/nn/fused.h"
#include "quant/grids/draws.h"

namespace quant {

void ActivationClip::keys(core::Keys& k) {
  k.key("kind", kind,
        "ratio: `value` times the range; absolute: the range within +-value; percentile: from the (100 - value)-th to "
        "the value-th percentile (mode: static: of all calibration inputs)",
        {"ratio", "absolute", "percentile"});
  k.key("value", value, "ratio: in (0, 1], 1 clips nothing; absolute: above 0; percentile: in (50, 100]",
        {0, core::kInfinity, /*low_open=*/true});
}

void ActivationClip::check() const {
  core::require(kind != "ratio" || value <= 1, "{} is a ratio in (0, 1], not {}.", where("value"), value);
  core::require(kind != "percentile" || (value > 50 && value <= 100), "{} is a percentile in (50, 100], not {}.",
                where("value"), value);
}

void ActivationReplica::keys(core::Keys& k) {
  k.section("clip", clip, "its own range; default: quant.activation's").only_if_given();
  k.key("scale", scale, "factor on its scales", {0, 16, /*low_open=*/true});
  k.key("zero_point", zero_point, "added to its zero points, in steps", {-65536, 65536});
  k.key("offset", offset, "added to the offset of quant.activation, in steps", {-65536, 65536});
}

void ActivationConfig::keys(core::Keys& k) {
  k.key("bits", bits,
        "bits of an input value of every linear in the blocks, also of those with weight.bits: 16; 16: left as it is",
        {2, 16});
  k.key("mode", mode,
        "dynamic: scales are found anew for every input, and not stored; static: found once, on the calibration text, "
        "and stored, with zero points, in float32",
        {"dynamic", "static"});
  k.key("granularity", granularity,
        "values that share a scale: a token (dynamic only), group_size of its values (static: the same columns of all "
        "tokens), or the whole batch (static: all inputs)",
        {"per_token", "per_group", "per_tensor"});
  k.key("group_size", group_size, "of per_group", {1, 65536});
  k.key("symmetry", symmetry, "as in quant.weight; asymmetric has an integer zero point",
        {"asymmetric", "narrow", "span", "signed_full", "noclip", "midrise"});
  k.key("range", range,
        "minmax; mse (mode: static): shrunk to the least mean square error on the calibration text, from its histogram",
        {"minmax", "mse"});
  k.section("clip", clip, "the range within which values keep their size");
  k.key("offset", offset, "shift of all levels in steps", {-65536, 65536});
  k.key("rounding", rounding,
        "nearest: half to even; stochastic: up with a probability equal to the fractional part, the same draw for "
        "every batch",
        {"nearest", "stochastic"});
  core::Key& several =
      k.list("replicas", replicas,
             "one map per grid that the inputs are quantized on; the product takes their mean. replication.scales sets "
             "it from the replicas' `activation`");
  if (replicas.empty()) several.only_if_given();
}

void ActivationConfig::check() const {
  if (!covered()) return;
  core::require(!is_static() || granularity != "per_token",
                "{}: static scales cannot follow single tokens, and granularity is per_token. Set granularity: "
                "per_tensor or per_group.",
                where("mode"));
  core::require(range == "minmax" || is_static(), "{}: mse is searched on the calibration text. Set mode: static.",
                where("range"));
  core::require(range == "minmax" || clip.kind != "percentile",
                "{}: mse and clip.kind: percentile both choose the range. Leave one of them out.", where("range"));
}

namespace {

// The weight grid of these levels.
WeightConfig grid_config(const ActivationConfig& config) {
  WeightConfig grid;
  grid.bits = config.bits;
  grid.symmetry = config.symmetry;
  grid.scale_dtype = "float32";
  grid.offset = config.offset;
  return grid;
}

ActivationConfig config_of(const ActivationConfig& all, const ActivationReplica& replica) {
  ActivationConfig own = all;
  own.replicas.clear();
  if (replica.given("clip")) own.clip = replica.clip;
  own.offset += replica.offset;
  return own;
}

std::string numbered(const std::string& name, size_t r) { return r == 0 ? name : fmt::format("{}_{}", name, r); }

}  // namespace

InputQuantizer::InputQuantizer(const ActivationConfig& config, Place place, int64_t in_features)
    : config_(config), place_(std::move(place)), in_features_(in_features), grid_(grid_config(config), place_) {
  for (const ActivationReplica& replica : config.replicas) {
    auto own = std::make_shared<InputQuantizer>(config_of(config, replica), place_, in_features);
    own->index_ = replicas_.size();
    own->scale_ = replica.scale;
    own->zero_point_ = replica.zero_point;
    for (Parameter p : own->parameters_) {
      p.name = numbered(p.name, replicas_.size());
      parameters_.push_back(std::move(p));
    }
    replicas_.push_back(std::move(own));
  }
  if (!replicas_.empty()) return;
  if (!config.is_static()) return;
  parameters_.push_back({"activation_scale", {}, core::Kind::activation_scale, 32, {groups()}, at::kFloat});
  if (config.symmetry != "asymmetric") return;
  parameters_.push_back({"activation_zero_point", {}, core::Kind::activation_zero_point, 32, {groups()}, at::kFloat});
}

int64_t InputQuantizer::groups() const {
  return config_.granularity == "per_group" ? in_features_ / config_.group_size : 1;
}

at::Tensor InputQuantizer::grouped(const at::Tensor& x) const {
  if (config_.granularity == "per_tensor") return x.reshape({1, 1, -1});
  return x.reshape({-1, groups(), in_features_ / groups()});
}

Range InputQuantizer::clipped(const Range& whole) const {
  const double value = config_.clip.value;
  if (config_.clip.kind == "absolute") return {whole.lo.clamp_min(-value), whole.hi.clamp_max(value)};
  return whole.scaled(at::full({}, value, whole.lo.options()));
}

// ---- dynamic: the range of what is there ----

Range InputQuantizer::range(const at::Tensor& groups) const {
  if (config_.clip.kind != "percentile") return clipped(Range::of(groups));
  const double value = config_.clip.value;
  return {at::quantile(groups, 1 - value / 100, -1).clamp_max(0), at::quantile(groups, value / 100, -1).clamp_min(0)};
}

// ---- static: the range of what was seen ----

InputHistogram InputQuantizer::histogram() const {
  const auto counts = [](const ActivationConfig& c) { return c.range == "mse" || c.clip.kind == "percentile"; };
  const bool of_any =
      std::any_of(replicas_.begin(), replicas_.end(), [&](const auto& r) { return counts(r->config_); });
  return {groups(), of_any || counts(config_)};
}

Range InputQuantizer::range(const InputHistogram& seen) const {
  if (config_.clip.kind == "percentile") return seen.percentile(config_.clip.value);
  if (config_.range == "minmax") return clipped(seen.range());
  RangeSearch squares;
  squares.norm = 2;
  const auto approximate = [this](const at::Tensor& x, const Range& range) { return grid_.round_trip(x, range); };
  const at::Tensor shrink = best_shrink(seen.centres(), seen.range(), seen.counts(), squares, approximate);
  return clipped(seen.range().scaled(shrink));
}

std::shared_ptr<const InputQuantizer> InputQuantizer::with(Parameters parameters) const {
  auto made = std::make_shared<InputQuantizer>(*this);
  for (size_t r = 0; r < replicas_.size(); ++r) {
    Parameters own = replicas_[r]->parameters_;
    for (Parameter& p : own) p.tensor = parameters.at(numbered(p.name, r));
    made->replicas_[r] = replicas_[r]->with(std::move(own));
  }
  made->parameters_ = std::move(parameters);
  return made;
}

std::shared_ptr<const InputQuantizer> InputQuantizer::calibrated(const InputHistogram& seen) const {
  core::require(!seen.empty(),
                "{}: no calibration token reached it, so it has no static activation scale. Use mode: dynamic.",
                place_.path);
  core::require(at::isfinite(seen.range().largest()).all().item<bool>(),
                "{}: an input that calibration saw is not finite, so it has no static activation scale. The quantized "
                "blocks before are broken, or float16 overflows.",
                place_.path);
  Parameters parameters = parameters_;
  for (size_t r = 0; r < replicas_.size(); ++r) {
    const auto own = replicas_[r]->calibrated(seen);
    for (const Parameter& p : own->parameters_) parameters.at(numbered(p.name, r)) = p.tensor;
  }
  if (!replicas_.empty()) return with(std::move(parameters));
  const AffineGrid::Steps steps = grid_.steps(range(seen));  // [1, G] each
  parameters.at("activation_scale") = steps.scale.reshape({-1}).clone();
  if (parameters.has("activation_zero_point"))
    parameters.at("activation_zero_point") = steps.zero.reshape({-1}).clone();
  return with(std::move(parameters));
}

AffineGrid::Steps InputQuantizer::steps() const {
  const at::Tensor scale = parameters_.at("activation_scale").unsqueeze(0);  // [1, G]
  TORCH_CHECK(scale.defined(), place_.path, ": a static quantizer is used before it is calibrated");
  if (!parameters_.has("activation_zero_point")) return grid_.constant_steps(scale);
  return {scale, parameters_.at("activation_zero_point").unsqueeze(0)};
}

// ---- both ----

at::Tensor InputQuantizer::dither(const at::Tensor& x) const {
  if (config_.rounding != "stochastic") return {};
  const int64_t columns = x.size(-1);
  return uniform_draw(place_, "activation", index_, x.numel() / columns, columns).to(x.device());
}

// Of a batch: those of a static quantizer, or those that the batch asks for; moved as a replica's are.
AffineGrid::Steps InputQuantizer::own_steps(const at::Tensor& groups) const {
  AffineGrid::Steps found = config_.is_static() ? steps() : grid_.steps(range(groups));
  if (scale_ != 1) found.scale = found.scale * scale_;
  if (zero_point_ != 0) found.zero = found.zero + zero_point_;
  return found;
}

at::Tensor InputQuantizer::mean_of_replicas(const at::Tensor& x, const OfReplica& of) const {
  at::Tensor sum;
  for (const auto& replica : replicas_) {
    const at::Tensor one = of(*replica, x.to(at::kFloat));
    sum = sum.defined() ? sum + one : one;
  }
  return (sum / static_cast<double>(replicas_.size())).to(x.scalar_type());
}

at::Tensor InputQuantizer::apply(const at::Tensor& x) const {
  if (x.numel() == 0) return x;
  if (core::needs_gradient(x)) return trainable(x);
  if (!replicas_.empty()) {
    return mean_of_replicas(x, [](const InputQuantizer& replica, const at::Tensor& in) { return replica.apply(in); });
  }
  const at::Tensor groups = grouped(x.to(at::kFloat));
  const AffineGrid::Steps found = own_steps(groups);
  return grid_.round_trip(groups, found, dither(x)).reshape(x.sizes()).to(x.scalar_type());
}

at::Tensor InputQuantizer::trainable(const at::Tensor& x) const {
  if (x.numel() == 0) return x;
  if (!config_.is_static()) return x + (apply(x.detach()) - x).detach();
  if (!replicas_.empty()) {
    return mean_of_replicas(x,
                            [](const InputQuantizer& replica, const at::Tensor& in) { return replica.trainable(in); });
  }
  const at::Tensor groups = grouped(x.to(at::kFloat));
  return grid_.trainable_round_trip(groups, own_steps(groups), dither(x)).reshape(x.sizes()).to(x.scalar_type());
}

std::shared_ptr<const InputQuantizer> make_input_quantizer(const ActivationConfig& config, const std::string& path,
                                                           int64_t in_features, uint64_t seed) {
  if (!config.covered()) return nullptr;
  core::require(config.granularity != "per_group" || in_features % config.group_size == 0,
                "{}: activation group_size {} does not divide {} input features. Choose a divisor.", path,
                config.group_size, in_features);
  return std::make_shared<InputQuantizer>(config, Place{path, seed}, in_features);
}

std::string as_text(const InputQuantizer* input) {
  if (input == nullptr) return {};
  ActivationConfig config = input->config();
  return core::to_yaml(core::to_node(config));
}

}  // namespace quant
