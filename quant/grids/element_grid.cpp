#include "quant/grids/element_grid.h"

#include <ATen/ATen.h>

namespace quant {

at::Tensor nearest_level(const at::Tensor& table, const at::Tensor& x) {
  const int64_t top = table.numel() - 1;
  const at::Tensor middles = (table.narrow(0, 0, top) + table.narrow(0, 1, top)) * 0.5;
  return at::bucketize(x, middles, /*out_int32=*/true, /*right=*/false);  // the first middle that is ≥ x
}

namespace {

// The code below x plus one where the dither falls below the fraction.
at::Tensor stochastic_level(const at::Tensor& table, const at::Tensor& x, const at::Tensor& dither) {
  const int64_t top = table.numel() - 1;
  const at::Tensor inside = x.clamp(table[0], table[top]);
  const at::Tensor below =
      (at::bucketize(inside, table, /*out_int32=*/true, /*right=*/true) - 1).clamp(0, top - 1).to(at::kLong);
  const at::Tensor low = table.index({below}), high = table.index({below + 1});
  return below + (dither < (inside - low) / (high - low)).to(at::kLong);
}

}  // namespace

at::Tensor ElementGrid::encode(const at::Tensor& w) const {
  const std::vector<int64_t> grouped{scale.size(0), scale.size(1), group_size};
  const at::Tensor x = w.reshape(grouped) / scale.unsqueeze(-1);  // [O, G, S], in steps
  const at::Tensor chance = dither.defined() ? dither.to(w.device()).reshape(grouped) : dither;
  if (!table.empty()) {
    const at::Tensor levels = at::tensor(table, x.options());
    const at::Tensor codes = chance.defined() ? stochastic_level(levels, x, chance) : nearest_level(levels, x);
    return codes.to(at::kByte).reshape(w.sizes());
  }
  const at::Tensor position = x + shift.unsqueeze(-1);
  const at::Tensor below = at::floor(position);
  const at::Tensor codes = chance.defined() ? below + (chance < position - below).to(at::kFloat) : at::round(position);
  return codes.clamp(0, top).to(at::kByte).reshape(w.sizes());
}

at::Tensor ElementGrid::decode(const at::Tensor& codes) const {
  const at::Tensor k = codes.reshape({scale.size(0), scale.size(1), group_size});
  const at::Tensor levels = table.empty() ? k.to(at::kFloat) - shift.unsqueeze(-1)
                                          : at::tensor(table, scale.options()).index({k.to(at::kLong)});
  return (levels * scale.unsqueeze(-1)).reshape(codes.sizes());
}

ElementGrid ElementGrid::columns(int64_t first, int64_t n) const {
  const at::Tensor group = at::arange(first, first + n, at::kLong).div(group_size, "floor");
  const auto pick = [&](const at::Tensor& x) { return x.defined() ? x.cpu().index_select(1, group) : x; };
  return {pick(scale), pick(shift), 1, top, table, dither.defined() ? dither.cpu().narrow(1, first, n) : dither};
}

}  // namespace quant
