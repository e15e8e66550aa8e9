#include "replication/affine_fit.h"

#include <ATen/ATen.h>

#include "quant/grids/scale_format.h"

namespace replication {

namespace {

// Σ over a group.
at::Tensor group_sum(const at::Tensor& x) { return x.sum(-1); }

struct Line {
  at::Tensor slope, zero;  // [O, G]: t ≈ slope (k − zero)
};

// The line through (k, t) with least Σ h (slope (k − zero) − t)² per group. k, t: [O, G, S]; h: [1, G, S], positive.
Line free_line(const at::Tensor& k, const at::Tensor& t, const at::Tensor& h) {
  const at::Tensor weight = group_sum(h);
  const at::Tensor k_mean = group_sum(h * k) / weight, t_mean = group_sum(h * t) / weight;
  const at::Tensor dk = k - k_mean.unsqueeze(-1), dt = t - t_mean.unsqueeze(-1);
  const at::Tensor variance = group_sum(h * dk * dk);
  // A group of equal codes has one level: any slope, here that of a unit step.
  const at::Tensor one_level = t_mean.abs() + 1e-6;
  at::Tensor slope = at::where(variance > 0, group_sum(h * dk * dt) / variance, one_level);
  slope = at::where(slope == 0, one_level, slope);
  return {slope, k_mean - t_mean / slope};
}

// The same when the zero is given.
at::Tensor slope_through(const at::Tensor& zero, const at::Tensor& k, const at::Tensor& t, const at::Tensor& h) {
  const at::Tensor steps = k - zero.unsqueeze(-1);
  const at::Tensor energy = group_sum(h * steps * steps);
  return at::where(energy > 0, group_sum(h * steps * t) / energy, at::ones_like(energy));
}

}  // namespace

at::Tensor column_weights(const at::Tensor& w, const quant::Statistics& x) {
  const bool known = x.mean_square.defined() && at::isfinite(x.mean_square).all().item<bool>();
  const at::Tensor h = known ? x.mean_square.to(w.options()) : at::ones({w.size(1)}, w.options());
  return h + (1e-6 * h.mean() + 1e-30);
}

quant::Parameters fitted(const quant::AffineGrid& grid, const at::Tensor& codes, const at::Tensor& target,
                         const at::Tensor& h) {
  const int64_t O = codes.size(0), I = codes.size(1), G = grid.groups(I);
  const at::Tensor k = codes.to(at::kFloat).reshape({O, G, -1}), t = target.reshape({O, G, -1});
  const at::Tensor weights = h.reshape({1, G, -1});
  const quant::ScaleFormat scale_format(grid.config(), /*is_signed=*/true);
  quant::Parameters all = grid.layout(O, I);
  if (all.has("offset")) all.at("offset") = at::full({1}, grid.config().offset, target.options());
  if (!all.has("zero_point")) {
    all.at("scale") = at::ones({O, G}, target.options());
    const at::Tensor zero = grid.element_grid(all, O, I).shift;  // constant; the offset is in it
    all.at("scale") = scale_format.rounded_scale(slope_through(zero, k, t, weights));
    return all;
  }
  Line line = free_line(k, t, weights);
  if (grid.config().zero_point == "int") {
    const at::Tensor zero = at::round(line.zero).clamp(0, (int64_t{1} << grid.config().bits) - 1);
    all.at("zero_point") = zero.to(at::kByte);
    all.at("scale") = scale_format.rounded_scale(slope_through(zero - grid.config().offset, k, t, weights));
    return all;
  }
  // Codes that say little about the target have a slope of nearly 0 through a zero far away, which a 16-bit float
  // cannot hold: then through the farthest zero that is allowed.
  const double farthest = 16.0 * static_cast<double>(int64_t{1} << grid.config().bits);
  const at::Tensor zero = line.zero.clamp(-farthest, farthest);
  line.slope = at::where(zero == line.zero, line.slope, slope_through(zero, k, t, weights));
  all.at("scale") = scale_format.rounded_scale(line.slope);
  all.at("zero_point") = scale_format.rounded(zero + grid.config().offset);
  return all;
}

}  // namespace replication
