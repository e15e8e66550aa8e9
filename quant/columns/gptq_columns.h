// GPTQ's walk along the columns of one block (Frantar 2022, arXiv 2210.17323, algorithm 1, inner loop): the code of a
// column is chosen with the errors of the columns to its left already spread over it. Rows are independent of each
// other, so sixteen of them go side by side, and threads may share the rows. Plain loops on pointers: one tensor
// operation per column would cost more than the arithmetic.
#pragma once

#include <cstdint>

namespace quant {

// n consecutive columns of a weight [O, I], in the order in which they are visited.
struct ColumnBlock {
  int64_t columns;  // n
  const float* u;   // [n, n] of the upper triangular U; rows are `u_stride` apart
  const float* w;   // [O, n], with all earlier blocks' errors spread; rows `stride` apart
  uint8_t* codes;   // [O, n] out; rows `stride` apart
  float* errors;    // [O, n] out, contiguous: (w − ŵ) / u_jj, what later blocks subtract
  int64_t u_stride, stride;
  // The levels, as ElementGrid defines them.
  const float* scale;              // [O, G]
  const float* shift;              // [O, G]; null with a table
  const int64_t* group;            // [n] of each column
  int64_t groups;                  // G
  float top;                       // largest code
  const float* table = nullptr;    // [top + 1]; null: uniform
  const float* middles = nullptr;  // [top], between neighbouring levels
  const float* dither = nullptr;   // [O, n], rows `stride` apart; null: to the nearest
};

// Rows [first, last).
void quantize_columns(const ColumnBlock& block, int64_t first, int64_t last);

}  // namespace quant
