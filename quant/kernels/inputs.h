// Inputs of a packed product, prepared once per product: padded as the layout pads columns, interleaved so that what is
// multiplied with one load of the codes lies together, with their sum per span (what zero points are multiplied with).
//
// Two precisions. `real`: float32. `integer`: every group of 32 columns of an input (a token) rounded to x ≈ scale · q,
// q in −127 … 127, scale = max |x| / 127, half to even: what quant.activation does with bits: 8, symmetry: narrow,
// granularity: per_group, group_size: 32; where groups of weights are no multiples of 32 (Layout), with per_token.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/kernels/layout.h"

namespace quant::kernels {

constexpr int64_t kMostInputs = 8;

enum class Precision { real, integer };

struct Inputs {
  Precision precision = Precision::real;
  int64_t count = 0, padded_count = 0;  // n, and the 1, 2, 4 or 8 that the kernels compute
  std::vector<float> real;              // [padded columns, padded_count]
  std::vector<int8_t> integer;          // [padded columns / 4, padded_count, 4]
  std::vector<float> sums;              // [spans, padded_count], of the inputs as they are multiplied
  std::vector<float> scales;            // [padded columns / input group, padded_count]: of one step of `integer`

  // x: [n, columns], rows `stride` elements apart, 1 ≤ n ≤ 8. Memory is used again where there is enough.
  void prepare(const Layout& layout, Precision precision, const float* x, int64_t n, int64_t stride);

 private:
  void round(const Layout& layout, const float* x, int64_t j);  // one input
  std::vector<int8_t> rounded_;                                 // [columns], in steps
  std::vector<float> group_scales_, group_sums_;                // [columns / kInputGroup]
};

}  // namespace quant::kernels
