// The levels of every single weight under given parameters: what an elementwise format looks like to code that chooses
// one code at a time, such as GPTQ's column loop. Whatever the format's keys, a weight w of group g in row o has
//   uniform (table empty)  k = clamp(round_half_even(w / s + shift), 0, top),  ŵ = s (k − shift)
//   table                  k = the nearest of table to w / s, the lower of two,  ŵ = s table[k]
// with s = scale[o, g]; an offset is folded into `shift` or `table`. A negative s is possible.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace quant {

struct ElementGrid {
  at::Tensor scale, shift;   // [O, G] float32, contiguous; shift is undefined when there is a table
  int64_t group_size = 0;    // S = I / G; a matrix of one group has its scale in every row
  int64_t top = 0;           // largest code
  std::vector<float> table;  // ascending, top + 1 levels; empty: uniform
  at::Tensor dither;         // [O, I] float32 in [0, 1): round up where it is below the fractional part, which is
                             // (x − table[k]) / (table[k + 1] − table[k]) in a table; undefined: to the nearest

  at::Tensor encode(const at::Tensor& w) const;         // [O, I] float32 -> [O, I] uint8
  at::Tensor decode(const at::Tensor& codes) const;     // [O, I] uint8 -> [O, I] float32
  ElementGrid columns(int64_t first, int64_t n) const;  // of some columns, on the CPU: every one a group of its own
};

// The index of the level nearest to each x, the lower one at a tie; rounding boundaries are the float32 midpoints.
// table: [K] float32 ascending, x: any shape -> int32 of the same shape.
at::Tensor nearest_level(const at::Tensor& table, const at::Tensor& x);

}  // namespace quant
