// GPTQ (Frantar, Ashkboos, Hoefler and Alistarh 2022, arXiv 2210.17323): columns are rounded one after the other, and
// the error of each is spread over the columns not yet rounded so that the output on calibration inputs changes least,
// tr(ΔHΔᵀ) with H = mean of x xᵀ.
//
// As in the paper: damping, blocks of columns with one product for all later columns, order of falling diag H
// (act_order). From its later code and others: groups fitted beforehand (static_groups), an order that keeps groups
// whole (gar, GPTQModel). Different here: U is found without forming H⁻¹ (core/linalg.h); a failed factorization raises
// the damping instead of stopping; a column that no input reached (H_jj = 0) keeps its weights and is rounded to the
// nearest, instead of becoming zero; a group that is fitted on the way sees the errors of its own block too.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "quant/columns/gptq_columns.h"
#include "quant/columns/hessian_factor.h"
#include "quant/grids/make_format.h"
#include "quant/method.h"

namespace quant {

namespace {

using Order_ = std::vector<int64_t>;  // order[j]: the column that is visited as the j-th

std::vector<double> diagonal_of(const at::Tensor& h) {
  const at::Tensor diagonal = h.diagonal().cpu().contiguous();  // [I]
  const auto* values = diagonal.const_data_ptr<float>();
  return {values, values + diagonal.numel()};
}

// Columns by falling diag H, equal ones in their own order.
Order_ falling(const std::vector<double>& diagonal, Order_ columns) {
  std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) { return diagonal[a] > diagonal[b]; });
  return columns;
}

// Groups by their largest diag H, and by falling diag H inside each: every group is visited in one go.
Order_ falling_by_group(const std::vector<double>& diagonal, int64_t group_size) {
  std::vector<Order_> groups;
  for (size_t first = 0; first < diagonal.size(); first += group_size) {
    Order_ columns(group_size);
    std::iota(columns.begin(), columns.end(), static_cast<int64_t>(first));
    groups.push_back(falling(diagonal, std::move(columns)));
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [&](const Order_& a, const Order_& b) { return diagonal[a.front()] > diagonal[b.front()]; });
  Order_ order;
  for (const Order_& group : groups) order.insert(order.end(), group.begin(), group.end());
  return order;
}

// Whether groups can be fitted one by one: each has parameters of its own, besides numbers that are the same for all.
bool fits_group_by_group(const WeightFormat& format, int64_t out_features, int64_t in_features) {
  const Parameters layout = format.layout(out_features, in_features);
  return std::all_of(layout.begin(), layout.end(), [&](const Parameter& p) {
    return p.kind == core::Kind::offset || p.shape == std::vector<int64_t>{out_features, format.groups(in_features)};
  });
}

// The weight while its columns are visited: everything is in the order of the visit.
struct Visit {
  at::Tensor w;       // [O, I] float32, errors spread as far as the visit has come
  at::Tensor codes;   // [O, I] uint8
  at::Tensor dither;  // [O, I] or undefined
  const HessianFactor& factor;

  // Columns [first, last) on this grid; then their errors go to all later columns. group: [last − first].
  void columns(int64_t first, int64_t last, const ElementGrid& grid, const std::vector<int64_t>& group) {
    const int64_t O = w.size(0), I = w.size(1), n = last - first;
    const at::Tensor errors = at::empty({O, n}, w.options());
    std::vector<float> middles;
    for (size_t k = 0; k + 1 < grid.table.size(); ++k) middles.push_back((grid.table[k] + grid.table[k + 1]) * 0.5f);
    const ColumnBlock block{.columns = n,
                            .u = factor.u.const_data_ptr<float>() + first * I + first,
                            .w = w.const_data_ptr<float>() + first,
                            .codes = codes.mutable_data_ptr<uint8_t>() + first,
                            .errors = errors.mutable_data_ptr<float>(),
                            .u_stride = I,
                            .stride = I,
                            .scale = grid.scale.const_data_ptr<float>(),
                            .shift = grid.table.empty() ? grid.shift.const_data_ptr<float>() : nullptr,
                            .group = group.data(),
                            .groups = grid.scale.size(1),
                            .top = static_cast<float>(grid.top),
                            .table = grid.table.empty() ? nullptr : grid.table.data(),
                            .middles = middles.data(),
                            .dither = dither.defined() ? dither.const_data_ptr<float>() + first : nullptr};
    at::parallel_for(0, O, kRows, [&](int64_t begin, int64_t end) { quantize_columns(block, begin, end); });
    if (last < I) w.slice(1, last).addmm_(errors, factor.u.slice(0, first, last).slice(1, last), 1, -1);
  }

  static constexpr int64_t kRows = 64;  // that a thread takes at least
};

struct Gptq : Method {
  double damp = 0.01;
  int64_t block_size = 128;
  bool act_order = true, static_groups = true, gar = false;

  std::string summary() const override {
    return "column by column, the error of each spread over the later ones by the Hessian of calibration inputs";
  }
  void keys(core::Keys& k) override {
    k.key("damp", damp, "added to the Hessian's diagonal, as a share of its mean; times ten as long as it is singular",
          {0, 1});
    k.key("block_size", block_size, "columns whose errors reach the later ones in one product", {1, 4096});
    k.key("act_order", act_order, "visit the columns in the order of falling mean square of their inputs");
    k.key("static_groups", static_groups,
          "fit all groups on the original weights; false: each when it is reached, on what the errors made of it");
    k.key("gar", gar, "act_order inside groups and of groups, so that a group is visited in one go");
  }
  void check() const override {
    core::require(act_order || !gar, "{}: gar is an act_order that keeps groups whole. Set act_order: true.",
                  where("gar"));
    core::require(static_groups || gar || !act_order,
                  "{}: act_order scatters the columns of a group, which then cannot be fitted when it is reached. Set "
                  "gar: true, act_order: false or static_groups: true.",
                  where("static_groups"));
  }
  Needs needs() const override { return {.hessian = true}; }
  bool feeds_errors_back() const override { return true; }
  std::string refuses(const WeightFormat& format, int64_t out_features, int64_t in_features) const override {
    if (static_groups || fits_group_by_group(format, out_features, in_features)) return {};
    return "groups that share scales or a table cannot be fitted one by one. Set quant.gptq.static_groups: true.";
  }

  std::vector<Quantized> quantize(core::BlockContext&, const std::vector<Target>& targets) const override {
    std::vector<Quantized> all;
    HessianFactor factor;
    for (const Target& target : targets) {
      const Statistics& x = target.inputs;
      const bool same = factor.h.defined() && factor.h.is_same(x.hessian) && !gar;  // gar's order depends on the groups
      if (!same) factor = factor_of(x, row_group(target));
      all.push_back(quantize_linear(target, factor));
    }
    return all;
  }

 private:
  // Columns that share a scale within a row.
  static int64_t row_group(const Target& target) {
    return target.slot->in_features() / target.format->groups(target.slot->in_features());
  }

  Quantized quantize_linear(const Target& target, const HessianFactor& factor) const {
    const at::Tensor w = target.slot->linear().weight().to(at::kFloat);  // [O, I]
    return named(target.slot->path(), [&]() -> Quantized {
      const ElementFormat& format = as_elements(*target.format);
      if (!factor.u.defined()) return {round_to_nearest(w, format, target.inputs), factor.reason, {}};
      const bool on_the_way = !static_groups && format.groups(w.size(1)) > 1;
      return {on_the_way ? fit_on_the_way(w, format, target.inputs, factor)
                         : fit_beforehand(w, format, target.inputs, factor),
              {},
              factor.note};
    });
  }

  HessianFactor factor_of(const Statistics& x, int64_t group_size) const {
    if (std::string reason = unusable(x); !reason.empty()) return {.h = x.hessian, .reason = std::move(reason)};
    const std::vector<double> diagonal = diagonal_of(x.hessian);
    if (gar) return factorized(x, falling_by_group(diagonal, group_size), damp);
    Order_ order = natural_order(static_cast<int64_t>(diagonal.size()));
    return factorized(x, act_order ? falling(diagonal, std::move(order)) : std::move(order), damp);
  }

  Visit begin(const at::Tensor& w, const HessianFactor& factor) const {
    const at::Tensor order = at::tensor(factor.order, at::kLong);
    const at::Tensor visited = w.cpu().index_select(1, order).contiguous();
    return {visited, at::empty(visited.sizes(), visited.options().dtype(at::kByte)), {}, factor};
  }

  // Codes in the order of the columns.
  static at::Tensor codes_of(const Visit& visit, const at::Tensor& w) {
    at::Tensor codes = at::empty_like(visit.codes);
    codes.index_copy_(1, at::tensor(visit.factor.order, at::kLong), visit.codes);
    return codes.to(w.device());
  }

  static ElementGrid on_cpu(ElementGrid grid) {
    grid.scale = grid.scale.cpu().contiguous();
    if (grid.shift.defined()) grid.shift = grid.shift.cpu().contiguous();
    return grid;
  }

  Encoded fit_beforehand(const at::Tensor& w, const ElementFormat& format, const Statistics& x,
                         const HessianFactor& factor) const {
    const int64_t O = w.size(0), I = w.size(1);
    Parameters parameters = format.fit(w, x);
    const ElementGrid grid = on_cpu(format.element_grid(parameters, O, I));
    Visit visit = begin(w, factor);
    if (grid.dither.defined()) visit.dither = grid.dither.cpu().index_select(1, at::tensor(factor.order, at::kLong));
    for (int64_t first = 0; first < I; first += block_size) {
      const int64_t last = std::min(first + block_size, I);
      std::vector<int64_t> group;
      for (int64_t j = first; j < last; ++j) group.push_back(factor.order[j] / grid.group_size);
      visit.columns(first, last, grid, group);
    }
    return {codes_of(visit, w), std::move(parameters)};
  }

  // The order keeps groups whole: group after group is fitted, on the weights as they are by then, and visited.
  Encoded fit_on_the_way(const at::Tensor& w, const ElementFormat& format, const Statistics& x,
                         const HessianFactor& factor) const {
    const int64_t O = w.size(0), I = w.size(1), G = format.groups(I), S = I / G;
    WeightConfig config = format.config();
    config.group_size = -1;
    const auto group_format = make_format(config, format.place().path, S, format.place().seed);
    const at::Tensor dither = format.element_grid(group_parameters(format, O, I), O, I).dither;
    Parameters parameters = group_parameters(format, O, I);
    Visit visit = begin(w, factor);
    const at::Tensor order = at::tensor(factor.order, at::kLong);
    if (dither.defined()) visit.dither = dither.cpu().index_select(1, order);
    for (int64_t begin = 0; begin < I; begin += S) {
      const int64_t g = factor.order[begin] / S;
      Statistics inputs;
      inputs.tokens = x.tokens;
      inputs.mean_square = x.mean_square.cpu().index_select(0, order.slice(0, begin, begin + S));
      const Parameters fitted = group_format->fit(visit.w.slice(1, begin, begin + S).contiguous(), inputs);
      for (Parameter& p : parameters) {
        const at::Tensor& value = fitted.at(p.name);
        p.kind == core::Kind::offset ? p.tensor.copy_(value) : p.tensor.select(1, g).copy_(value.select(1, 0));
      }
      const ElementGrid grid = on_cpu(group_format->element_grid(fitted, O, S));
      for (int64_t first = begin; first < begin + S; first += block_size) {
        const int64_t last = std::min(first + block_size, begin + S);
        visit.columns(first, last, grid, std::vector<int64_t>(last - first, 0));
      }
    }
    for (Parameter& p : parameters) p.tensor = p.tensor.to(w.device());
    return {codes_of(visit, w), std::move(parameters)};
  }

  // Parameters of the whole weight with room for the values.
  static Parameters group_parameters(const WeightFormat& format, int64_t out_features, int64_t in_features) {
    Parameters parameters = format.layout(out_features, in_features);
    for (Parameter& p : parameters)
      p.tensor = at::ones(p.shape, at::TensorOptions().dtype(core::is_codes(p.kind) ? at::kByte : at::kFloat));
    return parameters;
  }
};

}  // namespace

core::Polymorphic<Method> make_gptq() { return Gptq{}; }

}  // namespace quant
