#include "quant/grids/range_search.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace quant {

namespace {

constexpr int64_t kWeightsAtOnce = 1 << 15;  // of a task: its temporaries stay in the cache

at::Tensor rows_of(const at::Tensor& tensor, int64_t first, int64_t count) {
  const bool shared = !tensor.defined() || tensor.size(0) == 1;
  return shared ? tensor : tensor.narrow(0, first, count);
}

// Σ importance · |w − ŵ|^norm per group, [o, G].
at::Tensor loss(const at::Tensor& groups, const at::Tensor& approximation, const at::Tensor& importance, double norm) {
  at::Tensor error = at::sub(groups, approximation).abs_().pow_(norm);
  if (importance.defined()) error.mul_(importance);
  return error.sum(-1);
}

at::Tensor best_of(const at::Tensor& groups, const Range& range, const at::Tensor& importance,
                   const RangeSearch& search, const Approximate& approximate) {
  at::Tensor best = at::ones_like(range.lo);
  at::Tensor least = loss(groups, approximate(groups, range), importance, search.norm);
  const auto candidates = static_cast<int64_t>(std::ceil(search.grid * search.max_shrink - 1e-9));
  const auto attempt = [&](double factor) {
    const at::Tensor p = at::full({}, factor, range.lo.options());
    const at::Tensor found = loss(groups, approximate(groups, range.scaled(p)), importance, search.norm);
    const at::Tensor better = found < least;
    best = at::where(better, p, best);
    least = at::where(better, found, least);
  };
  for (int64_t i = 1; i < candidates; ++i) attempt(1 - static_cast<double>(i) / search.grid);
  for (int64_t i = 0; search.both_signs && i < candidates; ++i) attempt(static_cast<double>(i) / search.grid - 1);
  return best;
}

}  // namespace

Range Range::of(const at::Tensor& groups) { return {groups.amin(-1).clamp_max(0.0), groups.amax(-1).clamp_min(0.0)}; }

Range Range::scaled(const at::Tensor& factor) const {
  const at::Tensor a = lo * factor, b = hi * factor;
  return {at::minimum(a, b), at::maximum(a, b)};
}

at::Tensor Range::largest() const { return at::maximum(hi, -lo); }

at::Tensor Range::largest_signed() const { return at::where(hi >= -lo, hi, lo); }

at::Tensor best_shrink(const at::Tensor& groups, const Range& range, const at::Tensor& importance,
                       const RangeSearch& search, const Approximate& approximate) {
  const int64_t rows = groups.size(0), width = std::max<int64_t>(1, groups.numel() / std::max<int64_t>(1, rows));
  if (!groups.is_cpu()) return best_of(groups, range, importance, search, approximate);
  const int64_t at_once = std::max<int64_t>(1, kWeightsAtOnce / width), tasks = (rows + at_once - 1) / at_once;
  at::Tensor best = at::empty_like(range.lo);
  at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) {
    const at::NoGradGuard no_gradient;  // of this thread
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * at_once, count = std::min(at_once, rows - first);
      const Range part{range.lo.narrow(0, first, count), range.hi.narrow(0, first, count)};
      best.narrow(0, first, count)
          .copy_(best_of(groups.narrow(0, first, count), part, rows_of(importance, first, count), search, approximate));
    }
  });
  return best;
}

}  // namespace quant
