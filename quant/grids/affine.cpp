#include "quant/grids/affine.h"

#include <ATen/ATen.h>

namespace quant {

double AffineGrid::constant_zero() const {
  return config().symmetry == "midrise" ? static_cast<double>(top()) / 2 : static_cast<double>((top() + 1) / 2);
}

at::Tensor AffineGrid::exact_scale(const Range& range) const {
  const std::string& symmetry = config().symmetry;
  const auto half = static_cast<double>((top() + 1) / 2);  // 2^(b−1)
  if (symmetry == "asymmetric") return (range.hi - range.lo) / top();
  if (symmetry == "narrow") return range.largest() / (half - 1);
  if (symmetry == "signed_full") return -range.largest_signed() / half;
  if (symmetry == "noclip") return at::maximum(range.hi / (half - 1), -range.lo / half);
  return 2 * range.largest() / top();  // span, midrise
}

at::Tensor AffineGrid::zero(const Range& range, const at::Tensor& scale) const {
  if (!is_asymmetric()) return at::full_like(scale, constant_zero());
  if (stores_minimum()) return -scale_format().rounded(range.lo) / scale;
  const at::Tensor exact = -range.lo / scale;
  return config().zero_point == "int" ? at::round(exact).clamp(0, top()) : scale_format().rounded(exact);
}

AffineGrid::Steps AffineGrid::steps(const Range& range) const {
  const at::Tensor scale = scale_format().rounded_scale(exact_scale(range));
  return {scale, zero(range, scale)};
}

AffineGrid::Steps AffineGrid::constant_steps(const at::Tensor& scale) const {
  TORCH_CHECK(!is_asymmetric(), config().symmetry, " has no constant zero point");
  return {scale, at::full_like(scale, constant_zero())};
}

at::Tensor AffineGrid::round_trip(const at::Tensor& groups, const Steps& steps, const at::Tensor& dither) const {
  const at::Tensor shift = (steps.zero - config().offset).unsqueeze(-1), step = steps.scale.unsqueeze(-1);
  at::Tensor position = at::div(groups, step).add_(shift);  // in steps
  if (dither.defined()) {
    const at::Tensor below = at::floor(position);
    position = below + (dither.reshape(groups.sizes()) < position - below).to(at::kFloat);
  }
  return position.round_().clamp_(0, top()).sub_(shift).mul_(step);
}

Range AffineGrid::range_of(const at::Tensor& w, const Statistics& x) const {
  return chosen_range(grouped(w), x,
                      [this](const at::Tensor& part, const Range& candidate) { return round_trip(part, candidate); });
}

Parameters AffineGrid::fit(const at::Tensor& w, const Statistics& x) const { return parameters_of(range_of(w, x), w); }

Parameters AffineGrid::parameters_of(const Range& range, const at::Tensor& w) const {
  Parameters fitted = layout(w.size(0), w.size(1));
  for (Parameter& p : scale_format().stored(exact_scale(range))) fitted.at(p.name) = p.tensor;
  if (stores_minimum()) {
    for (Parameter& p : scale_format().stored_minimum(range.lo)) fitted.at(p.name) = p.tensor;
  }
  if (stores_zero()) {
    const at::Tensor exact = zero(range, scale_format().scale(fitted));
    fitted.at("zero_point") = config().zero_point == "int" ? exact.to(at::kByte) : exact;
  }
  set_offset(fitted, w);
  return fitted;
}

namespace {

// The value is `rounded`, up to float32; the gradient is that of `exact`.
at::Tensor straight_through(const at::Tensor& exact, const at::Tensor& rounded) {
  return exact + (rounded - exact).detach();
}

}  // namespace

at::Tensor AffineGrid::trainable_round_trip(const at::Tensor& groups, const Steps& steps,
                                            const at::Tensor& dither) const {
  const at::Tensor shift = (steps.zero - config().offset).unsqueeze(-1), step = steps.scale.unsqueeze(-1);
  const at::Tensor position = groups / step + shift;  // in steps
  at::Tensor rounded = at::round(position);
  if (dither.defined()) {
    const at::Tensor below = at::floor(position);
    rounded = below + (dither.reshape(groups.sizes()) < position - below).to(at::kFloat);
  }
  return (straight_through(position, rounded).clamp(0, top()) - shift) * step;
}

at::Tensor AffineGrid::trainable(const at::Tensor& w, const Range& range, const at::Tensor& nudge) const {
  const at::Tensor exact = exact_scale(range);  // [O, G]
  const at::Tensor scale = straight_through(exact, scale_format().scale(scale_format().stored(exact.detach())));
  at::Tensor zero = at::full_like(scale, constant_zero());
  if (stores_minimum()) {
    const at::Tensor stored = scale_format().minimum(scale_format().stored_minimum(range.lo.detach()));
    zero = -straight_through(range.lo, stored) / scale;
  }
  if (stores_zero()) {
    const at::Tensor position = -range.lo / scale;
    zero = config().zero_point == "int" ? straight_through(position, at::round(position)).clamp(0, top())
                                        : straight_through(position, scale_format().rounded(position.detach()));
  }
  const at::Tensor shift = (zero - config().offset).unsqueeze(-1), step = scale.unsqueeze(-1);
  const at::Tensor position = grouped(w) / step + shift + grouped(nudge);  // [O, G, S], in steps
  const at::Tensor k = straight_through(position, at::round(position)).clamp(0, top());
  return ((k - shift) * step).reshape(w.sizes());
}

at::Tensor AffineGrid::shift(const Parameters& parameters, const at::Tensor& scale) const {
  at::Tensor zero;
  if (stores_minimum()) {
    zero = -scale_format().minimum(parameters) / scale;
  } else if (stores_zero()) {
    zero = parameters.at("zero_point").to(at::kFloat);
  } else {
    zero = at::full_like(scale, constant_zero());
  }
  return parameters.has("offset") ? zero - parameters.at("offset") : zero;
}

at::Tensor AffineGrid::decode(const at::Tensor& codes, const Parameters& parameters) const {
  const at::Tensor scale = scale_format().scale(parameters), k = grouped(codes).to(at::kFloat);
  if (!stores_minimum()) {
    return ((k - shift(parameters, scale).unsqueeze(-1)) * scale.unsqueeze(-1)).reshape(codes.sizes());
  }
  const at::Tensor position = parameters.has("offset") ? k + parameters.at("offset") : k;
  const at::Tensor minimum = scale_format().minimum(parameters).unsqueeze(-1);
  return (position * scale.unsqueeze(-1) + minimum).reshape(codes.sizes());
}

std::optional<AffineGrid::Levels> AffineGrid::levels(const Parameters& parameters) const {
  const ScaleFormat::Parts scale = scale_format().parts(parameters);
  Levels levels{.shared = scale.shared, .multiple = scale.multiple};
  if (!stores_minimum()) {
    levels.zero = shift(parameters, scale_format().scale(parameters));
    return levels;
  }
  if (parameters.has("offset")) return std::nullopt;
  const ScaleFormat::Parts minimum = scale_format().minimum_parts(parameters);
  levels.shared_minimum = minimum.shared;
  levels.minimum_multiple = minimum.multiple;
  return levels;
}

Parameters AffineGrid::layout(int64_t out_features, int64_t in_features) const {
  const std::vector<int64_t> shape = group_shape(out_features, in_features);
  Parameters parameters = scale_format().layout(shape);
  if (stores_minimum()) {
    for (Parameter& p : scale_format().minimum_layout(shape)) parameters.push_back(p);
  } else if (stores_zero() && config().zero_point == "int") {
    parameters.push_back({"zero_point", {}, core::Kind::zero_codes, config().bits, shape});
  } else if (stores_zero()) {
    parameters.push_back(
        {"zero_point", {}, core::Kind::zero_point, scale_format().bits(), shape, scale_format().dtype()});
  }
  add_offset(parameters);
  return parameters;
}

at::Tensor AffineGrid::nonzero_scale(const Parameters& parameters) const {
  const at::Tensor scale = scale_format().scale(parameters);
  if (!config().scale_zero && !stores_minimum()) return scale;
  constexpr double kTiny = 0x1p-100, kSteps = 0x1p22;
  at::Tensor instead = at::full_like(scale, kTiny);
  if (stores_minimum()) instead = at::maximum(instead, scale_format().minimum(parameters).detach().abs() / kSteps);
  return at::where(scale == 0, instead, scale);
}

ElementGrid AffineGrid::element_grid(const Parameters& parameters, int64_t out_features, int64_t in_features) const {
  const at::Tensor scale = nonzero_scale(parameters);
  return {.scale = per_row(scale, out_features),
          .shift = per_row(shift(parameters, scale), out_features),
          .group_size = row_group(in_features),
          .top = top(),
          .table = {},
          .dither = dither(out_features, in_features)};
}

}  // namespace quant
