#include "quant/grids/codebook.h"

#include <ATen/ATen.h>

#include <cmath>
#include <numbers>

#include "quant/grids/lloyd_max.h"

namespace quant {

namespace {

constexpr int kRounds = 3;  // of table for range, range for table

// x with Φ(x) = probability, by bisection.
double normal_quantile(double probability) {
  double low = -40, high = 40;
  for (int i = 0; i < 100; ++i) {
    const double middle = (low + high) / 2;
    (std::erfc(-middle / std::numbers::sqrt2) / 2 < probability ? low : high) = middle;
  }
  return low;
}

// `count` quantiles from the outermost probability down towards 1/2, which is left out.
std::vector<double> one_side(double outermost, int64_t count) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(
        normal_quantile(outermost + (0.5 - outermost) * static_cast<double>(i) / static_cast<double>(count)));
  }
  return values;
}

size_t outermost(const std::vector<double>& levels) {
  return std::max_element(levels.begin(), levels.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }) -
         levels.begin();
}

at::Tensor exact_scale(const Range& range, const at::Tensor& table) { return range.largest() / table.abs().max(); }

}  // namespace

std::vector<double> normal_float(int64_t bits) {
  TORCH_CHECK(bits >= 2, "normal_float has 2 bits or more");
  const auto codes = static_cast<double>(int64_t{1} << bits);
  const double probability = 1 - (1 / (2 * codes) + 1 / (2 * (codes - 1))) / 2;  // .9677 at 4 bits
  const auto half = static_cast<int64_t>(codes) / 2;
  std::vector<double> levels{0};
  for (const double value : one_side(probability, half)) levels.push_back(value);
  for (const double value : one_side(probability, half - 1)) levels.push_back(-value);
  std::sort(levels.begin(), levels.end());
  for (double& level : levels) level /= normal_quantile(probability);
  return levels;
}

at::Tensor CodebookGrid::stored_table(const std::vector<double>& levels, const at::Tensor& like) const {
  const std::vector<float> narrow(levels.begin(), levels.end());
  return scale_format().rounded(at::tensor(narrow, like.options()));
}

at::Tensor CodebookGrid::round_trip(const at::Tensor& table, const at::Tensor& groups, const Range& range) const {
  const at::Tensor step = scale_format().rounded_scale(exact_scale(range, table)).unsqueeze(-1);
  const at::Tensor levels = table + config().offset;
  return levels.take(nearest_level(levels, groups / step).to(at::kLong)).mul_(step);
}

Range CodebookGrid::range_for(const at::Tensor& table, const at::Tensor& groups, const Statistics& x) const {
  return chosen_range(
      groups, x, [&](const at::Tensor& part, const Range& candidate) { return round_trip(table, part, candidate); });
}

// Alternates: the range of every group under the table, the table for the groups divided by their ranges.
at::Tensor CodebookGrid::lloyd_max_table(const at::Tensor& groups, const Statistics& x) const {
  const at::Tensor largest = Range::of(groups).largest();  // [O, G]
  const at::Tensor used = largest > 0;
  if (!used.any().item<bool>()) {  // nothing but zeros: any table with a 0 is exact
    std::vector<double> levels(top() + 1, 0.0);
    levels.back() = 1;
    return stored_table(levels, groups);
  }
  const at::Tensor weights =
      config().range_kind() == "importance" ? importance(x, groups).expand_as(groups) : at::Tensor();
  const auto normalised = [&](const at::Tensor& range) {  // of the groups that are not zero, [N, S]
    const at::Tensor values = (groups / range.unsqueeze(-1)).index({used}) - config().offset;
    return LloydMax(values, weights.defined() ? weights.index({used}) : at::Tensor());
  };
  std::vector<double> levels = normalised(largest).levels(top() + 1);
  const size_t end = outermost(levels);
  const double size = std::abs(levels[end]);
  for (double& level : levels) level /= size;
  at::Tensor table = stored_table(levels, groups);
  const int rounds = config().range_kind() == "minmax" ? 1 : kRounds;
  for (int round = 0; round < rounds; ++round) {
    levels = normalised(range_for(table, groups, x).largest()).improved(levels, static_cast<int64_t>(end));
    table = stored_table(levels, groups);
  }
  return table;
}

Parameters CodebookGrid::fit(const at::Tensor& w, const Statistics& x) const {
  const at::Tensor groups = grouped(w);
  at::Tensor table;
  if (config().codebook == "lloyd_max") table = lloyd_max_table(groups, x);
  if (config().codebook == "normal_float") table = stored_table(normal_float(config().bits), w);
  if (config().codebook == "levels") table = stored_table(config().levels, w);
  const Range range = range_for(table, groups, x);
  Parameters fitted = layout(w.size(0), w.size(1));
  for (Parameter& p : scale_format().stored(exact_scale(range, table))) fitted.at(p.name) = p.tensor;
  fitted.at("table") = table;
  set_offset(fitted, w);
  return fitted;
}

at::Tensor CodebookGrid::decode(const at::Tensor& codes, const Parameters& parameters) const {
  at::Tensor table = parameters.at("table");
  if (parameters.has("offset")) table = table + parameters.at("offset");
  const at::Tensor levels = table.index({grouped(codes).to(at::kLong)});  // [O, G, S]
  return (levels * scale_format().scale(parameters).unsqueeze(-1)).reshape(codes.sizes());
}

Parameters CodebookGrid::layout(int64_t out_features, int64_t in_features) const {
  Parameters parameters = scale_format().layout(group_shape(out_features, in_features));
  parameters.push_back({"table", {}, core::Kind::table, scale_format().bits(), {top() + 1}, scale_format().dtype()});
  add_offset(parameters);
  return parameters;
}

ElementGrid CodebookGrid::element_grid(const Parameters& parameters, int64_t out_features, int64_t in_features) const {
  at::Tensor table = parameters.at("table").detach();
  if (parameters.has("offset")) table = table + parameters.at("offset").detach();
  const at::Tensor values = table.cpu().contiguous();
  return {.scale = per_row(scale_format().scale(parameters), out_features),
          .shift = {},
          .group_size = row_group(in_features),
          .top = top(),
          .table = {values.const_data_ptr<float>(), values.const_data_ptr<float>() + values.numel()},
          .dither = dither(out_features, in_features)};
}

}  // namespace quant
