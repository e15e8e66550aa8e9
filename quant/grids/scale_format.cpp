#include "quant/grids/scale_format.h"

#include <ATen/ATen.h>

#include <limits>

#include "core/error.h"

namespace quant {

namespace {

at::ScalarType dtype_named(const std::string& name) {
  if (name == "float16") return at::kHalf;
  return name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

double smallest_normal(at::ScalarType dtype) {
  return dtype == at::kHalf ? 0x1p-14 : std::numeric_limits<float>::min();  // bfloat16 has float32's exponents
}

// Of float16 also the subnormal numbers are used, in steps of 2⁻²⁴: weights may well be that small.
constexpr double kSteps = 0x1p24;
constexpr double kPreciseHalf = 0x1p-18;  // from here on the nearest step is an error of at most 2⁻⁷

// Like sign, but 1 at 0.
at::Tensor direction(const at::Tensor& values) { return 1 - 2 * (values < 0).to(at::kFloat); }

}  // namespace

ScaleFormat::ScaleFormat(const WeightConfig& config, bool is_signed)
    : dtype_(dtype_named(config.scale_dtype)),
      scale_bits_(config.scale_bits),
      scale_group_(config.scale_group),
      scale_zero_(config.scale_zero),
      is_signed_(is_signed) {}

at::Tensor ScaleFormat::rounded(const at::Tensor& values) const { return values.to(dtype_).to(at::kFloat); }

at::Tensor ScaleFormat::rounded_scale(const at::Tensor& scale) const {
  const at::Tensor stored = rounded(scale);
  const char* name = dtype_ == at::kHalf ? "float16" : dtype_ == at::kBFloat16 ? "bfloat16" : "float32";
  core::require(at::isfinite(stored).all().item<bool>(),
                "a scale of {:.3g} does not fit {}. Use scale_dtype: bfloat16 or float32.",
                scale.abs().max().item<double>(), name);
  const at::Tensor magnitude = scale.abs();
  const double smallest = smallest_normal(dtype_);
  at::Tensor kept = stored.abs();
  if (dtype_ == at::kHalf) {  // upwards where a step is coarse: a scale that is too small clips the largest weights
    kept = at::where(magnitude < kPreciseHalf, at::ceil(magnitude * kSteps) / kSteps, kept);
    kept = at::where(magnitude == 0, smallest, kept).to(at::kFloat);
  } else {
    kept = kept.clamp_min(smallest);
  }
  return direction(scale) * kept;
}

int64_t ScaleFormat::shared(int64_t groups) const { return scale_group_ > 0 ? scale_group_ : groups; }

at::Tensor ScaleFormat::per_group(const at::Tensor& super_scale, int64_t groups) const {
  return super_scale.repeat_interleave(shared(groups), 1).narrow(1, 0, groups);
}

Parameters ScaleFormat::layout(const std::vector<int64_t>& shape) const {
  if (!two_level()) return {{"scale", {}, core::Kind::scale, bits(), shape, dtype_}};
  const int64_t supers = (shape[1] + shared(shape[1]) - 1) / shared(shape[1]);
  return {{"scale_codes", {}, core::Kind::scale_codes, scale_bits_, shape},
          {"super_scale", {}, core::Kind::scale, bits(), {shape[0], supers}, dtype_}};
}

Parameters ScaleFormat::stored(const at::Tensor& scale) const {
  Parameters parameters = layout(scale.sizes().vec());
  if (!two_level()) {
    parameters.at("scale") = rounded_scale(scale);
    return parameters;
  }
  const int64_t groups = scale.size(1);
  const at::Tensor super_scale = rounded_scale(largest(scale) / magnitudes());  // [O, U]
  const at::Tensor multiple = scale.abs() / per_group(super_scale, groups);
  if (scale_zero_) {
    const at::Tensor q = at::round(multiple).clamp_max(magnitudes());
    parameters.at("scale_codes") = (at::where(scale < 0, -q, q) + bias()).to(at::kByte);
  } else {
    const at::Tensor q = at::round(multiple).clamp(1, magnitudes());
    const at::Tensor negative = is_signed_ ? (scale < 0).to(at::kFloat) * magnitudes() : at::zeros_like(q);
    parameters.at("scale_codes") = (q - 1 + negative).to(at::kByte);
  }
  parameters.at("super_scale") = super_scale;
  return parameters;
}

std::optional<Parameters> ScaleFormat::replaced(Parameters parameters, const at::Tensor& scale) const {
  if (two_level() || parameters.at("scale").sizes() != scale.sizes()) return std::nullopt;
  parameters.at("scale") = rounded_scale(scale).to(parameters.at("scale").device());
  return parameters;
}

at::Tensor ScaleFormat::largest(const at::Tensor& x) const {
  const int64_t groups = x.size(1), share = shared(groups), supers = (groups + share - 1) / share;
  return at::constant_pad_nd(x.abs(), {0, supers * share - groups}).reshape({x.size(0), supers, share}).amax(-1);
}

Parameters ScaleFormat::minimum_layout(const std::vector<int64_t>& shape) const {
  if (!two_level()) return {{"minimum", {}, core::Kind::minimum, bits(), shape, dtype_}};
  const int64_t supers = (shape[1] + shared(shape[1]) - 1) / shared(shape[1]);
  return {{"minimum_codes", {}, core::Kind::scale_codes, scale_bits_, shape},
          {"super_minimum", {}, core::Kind::minimum, bits(), {shape[0], supers}, dtype_}};
}

Parameters ScaleFormat::stored_minimum(const at::Tensor& minimum) const {
  Parameters parameters = minimum_layout(minimum.sizes().vec());
  if (!two_level()) {
    parameters.at("minimum") = rounded(minimum);
    return parameters;
  }
  const int64_t most = (int64_t{1} << scale_bits_) - 1;
  const at::Tensor super_minimum = rounded_scale(largest(minimum) / most);
  const at::Tensor n = at::round(-minimum / per_group(super_minimum, minimum.size(1))).clamp(0, most);
  parameters.at("minimum_codes") = n.to(at::kByte);
  parameters.at("super_minimum") = super_minimum;
  return parameters;
}

ScaleFormat::Parts ScaleFormat::minimum_parts(const Parameters& parameters) const {
  if (!two_level()) return {-parameters.at("minimum"), at::ones_like(parameters.at("minimum"))};
  const at::Tensor n = parameters.at("minimum_codes").to(at::kFloat);
  return {per_group(parameters.at("super_minimum"), n.size(1)), n};
}

at::Tensor ScaleFormat::minimum(const Parameters& parameters) const {
  if (!two_level()) return parameters.at("minimum");
  const Parts parts = minimum_parts(parameters);
  return -(parts.shared * parts.multiple);
}

int64_t imprecise_scales(const Parameters& parameters) {
  int64_t count = 0;
  for (const Parameter& p : parameters) {
    const bool is_scale =
        p.kind == core::Kind::scale || p.kind == core::Kind::row_scale || p.kind == core::Kind::column_scale;
    if (!is_scale || p.stored_dtype != at::kHalf) continue;
    const at::Tensor magnitude = p.tensor.abs();
    count += at::logical_and(magnitude > 0, magnitude < kPreciseHalf).sum().item<int64_t>();
  }
  return count;
}

ScaleFormat::Parts ScaleFormat::parts(const Parameters& parameters) const {
  if (!two_level()) return {parameters.at("scale"), at::ones_like(parameters.at("scale"))};
  const at::Tensor codes = parameters.at("scale_codes").to(at::kFloat);  // [O, G]
  at::Tensor q = scale_zero_ ? codes - bias() : codes + 1;
  if (is_signed_ && !scale_zero_)
    q = at::where(codes >= magnitudes(), magnitudes() - 1 - codes, q);  // −((code − magnitudes) + 1)
  return {per_group(parameters.at("super_scale"), codes.size(1)), q};
}

at::Tensor ScaleFormat::scale(const Parameters& parameters) const {
  if (!two_level()) return parameters.at("scale");
  const Parts found = parts(parameters);
  return found.shared * found.multiple;
}

}  // namespace quant
