#include "quant/grids/scalar_grid.h"

#include <ATen/ATen.h>

#include "core/error.h"
#include "quant/grids/draws.h"

namespace quant {

int64_t ScalarGrid::groups(int64_t in_features) const {
  return config().group_size > 0 ? in_features / config().group_size : 1;
}

at::Tensor ScalarGrid::grouped(const at::Tensor& matrix) const {
  if (config().group_size == 0) return matrix.reshape({1, 1, -1});
  return matrix.reshape({matrix.size(0), groups(matrix.size(1)), -1});
}

std::vector<int64_t> ScalarGrid::group_shape(int64_t out_features, int64_t in_features) const {
  return {config().group_size == 0 ? 1 : out_features, groups(in_features)};
}

at::Tensor ScalarGrid::importance(const Statistics& x, const at::Tensor& groups) const {
  core::require(x.mean_square.defined(), "range: importance needs the inputs of the linear. Use range: mse.");
  const at::Tensor column = x.mean_square.to(groups.options());  // [I]
  if (config().group_size != 0) return column.reshape({1, groups.size(1), groups.size(2)});
  return column.expand({groups.numel() / column.numel(), column.numel()}).reshape({1, 1, -1});
}

Range ScalarGrid::chosen_range(const at::Tensor& groups, const Statistics& x, const Approximate& approximate) const {
  const Range whole = Range::of(groups);
  const std::string kind = config().range_kind();
  if (kind == "minmax") return whole.scaled(at::full({}, config().clip, groups.options()));
  const at::Tensor weights = kind == "importance" ? importance(x, groups) : at::Tensor();
  return whole.scaled(best_shrink(groups, whole, weights, config().range_search, approximate) * config().clip);
}

Encoded ScalarGrid::encode(const at::Tensor& w, Parameters parameters) const {
  const at::Tensor codes = element_grid(parameters, w.size(0), w.size(1)).encode(w);
  return {codes, std::move(parameters)};
}

std::optional<Parameters> ScalarGrid::rescaled(const Parameters& parameters, const at::Tensor& scale) const {
  return config().stores_minimum() ? std::nullopt : scale_format_.replaced(parameters, scale);
}

// ---- the offset ----

void ScalarGrid::add_offset(Parameters& layout) const {
  if (config().offset != 0) layout.push_back({"offset", {}, core::Kind::offset, 32, {1}, at::kFloat});
}

void ScalarGrid::set_offset(Parameters& parameters, const at::Tensor& like) const {
  if (config().offset != 0) parameters.at("offset") = at::full({1}, config().offset, like.options());
}

at::Tensor ScalarGrid::per_row(const at::Tensor& per_group, int64_t out_features) const {
  return per_group.expand({out_features, per_group.size(1)}).contiguous();
}

at::Tensor ScalarGrid::dither(int64_t out_features, int64_t in_features) const {
  if (config().rounding == "nearest") return {};
  return uniform_draw(place(), "rounding", 0, out_features, in_features);
}

}  // namespace quant
