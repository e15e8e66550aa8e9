// The range of a group: [min, max] of its weights, or the fraction p of it that loses least. The search is the one of
// GPTQ's code (Frantar et al. 2022, arXiv 2210.17323, `mse`): p = 1 − i / grid for i < grid · max_shrink, least
// Σ |w − ŵ|^norm. Weighted by the mean square of the inputs it is what llama.cpp calls an importance matrix.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "quant/grids/weight_config.h"

namespace quant {

// [O, G] each: lo ≤ 0 ≤ hi.
struct Range {
  at::Tensor lo, hi;

  static Range of(const at::Tensor& groups);     // [O, G, S]: minimum and maximum, widened to contain 0
  Range scaled(const at::Tensor& factor) const;  // [O, G] or a number; a negative one mirrors it at 0
  at::Tensor largest() const;                    // α = max |w|
  at::Tensor largest_signed() const;             // the weight of largest magnitude, the positive one of two
};

// The levels that weights get when their range is the given one: groups [o, G, S], range [o, G] -> [o, G, S].
using Approximate = std::function<at::Tensor(const at::Tensor& groups, const Range& range)>;

// The best p of every group, [O, G], negative where the mirrored range is better; of equally good ones the largest.
// importance: [O or 1, G, S], or undefined: 1.
at::Tensor best_shrink(const at::Tensor& groups, const Range& range, const at::Tensor& importance,
                       const RangeSearch& search, const Approximate& approximate);

}  // namespace quant
