#include "quant/activation.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "quant/draws.h"

namespace quant {

void ActivationClip::keys(core::Keys& k) {
  k.key("kind", kind,
        "ratio: `value` times the range; absolute: the range within +-value; percentile: from the (100 - value)-th to "
        "the value-th percentile",
        {"ratio", "absolute", "percentile"});
  k.key("value", value, "ratio: in (0, 1], 1 clips nothing; absolute: above 0; percentile: in (50, 100]",
        {0, core::kInfinity, /*low_open=*/true});
}

void ActivationClip::check() const {
  core::require(kind != "ratio" || value <= 1, "{} is a ratio in (0, 1], not {}.", where("value"), value);
  core::require(kind != "percentile" || (value > 50 && value <= 100), "{} is a percentile in (50, 100], not {}.",
                where("value"), value);
}

void ActivationConfig::keys(core::Keys& k) {
  k.key("bits", bits, "bits of an input value, for linears whose weights are quantized; 16: left as it is", {2, 16});
  k.key("granularity", granularity,
        "values that share a scale, found anew for every input: a token, group_size of its values, or the whole batch",
        {"per_token", "per_group", "per_tensor"});
  k.key("group_size", group_size, "of per_group", {1, 65536});
  k.key("symmetry", symmetry, "as in quant.weight; asymmetric has an integer zero point",
        {"asymmetric", "narrow", "span", "signed_full", "noclip", "midrise"});
  k.section("clip", clip, "the range within which values keep their size");
  k.key("offset", offset, "shift of all levels in steps", {-65536, 65536});
  k.key("rounding", rounding,
        "nearest: half to even; stochastic: up with a probability equal to the fractional part, the same draw for "
        "every batch",
        {"nearest", "stochastic"});
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

}  // namespace

InputQuantizer::InputQuantizer(const ActivationConfig& config, Place place)
    : config_(config), grid_(grid_config(config), std::move(place)) {}

at::Tensor InputQuantizer::grouped(const at::Tensor& x) const {
  if (config_.granularity == "per_tensor") return x.reshape({1, 1, -1});
  const int64_t columns = x.size(-1), size = config_.granularity == "per_group" ? config_.group_size : columns;
  return x.reshape({-1, columns / size, size});
}

Range InputQuantizer::range(const at::Tensor& groups) const {
  const double value = config_.clip.value;
  if (config_.clip.kind == "percentile") {
    return {at::quantile(groups, 1 - value / 100, -1).clamp_max(0), at::quantile(groups, value / 100, -1).clamp_min(0)};
  }
  const Range whole = Range::of(groups);
  if (config_.clip.kind == "absolute") return {whole.lo.clamp_min(-value), whole.hi.clamp_max(value)};
  return whole.scaled(at::full({}, value, groups.options()));
}

at::Tensor InputQuantizer::apply(const at::Tensor& x) const {
  if (x.numel() == 0) return x;
  const at::Tensor groups = grouped(x.to(at::kFloat));
  at::Tensor dither;
  if (config_.rounding == "stochastic") {
    const int64_t columns = x.size(-1);
    dither = uniform_draw(grid_.place(), "activation", 0, x.numel() / columns, columns).to(x.device());
  }
  return grid_.round_trip(groups, range(groups), dither).reshape(x.sizes()).to(x.scalar_type());
}

std::shared_ptr<const InputQuantizer> make_input_quantizer(const ActivationConfig& config, const std::string& path,
                                                           int64_t in_features, uint64_t seed) {
  if (!config.covered()) return nullptr;
  core::require(config.granularity != "per_group" || in_features % config.group_size == 0,
                "{}: activation group_size {} does not divide {} input features. Choose a divisor.", path,
                config.group_size, in_features);
  return std::make_shared<InputQuantizer>(config, Place{path, seed});
}

}  // namespace quant
