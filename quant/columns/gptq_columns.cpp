#include "quant/columns/gptq_columns.h"

#include <algorithm>
#include <vector>

#include "core/simd.h"

namespace quant {

namespace {

constexpr int64_t kTile = 16;          // rows that go side by side
constexpr float kRound = 12582912.0f;  // 1.5 · 2^23: adding and subtracting it rounds to an integer, half to even

float nearest_integer(float x) { return (x + kRound) - kRound; }  // |x| < 2^22

float clamped(float x, float low, float high) {
  x = x < low ? low : x;
  return x > high ? high : x;
}

// One column of a tile.
struct Column {
  float w[kTile], scale[kTile], shift[kTile], dither[kTile];  // in
  float code[kTile], level[kTile];                            // out: k and ŵ
};

REFRAIN_SIMD void uniform_nearest(Column& c, float top) {
#pragma omp simd
  for (int64_t r = 0; r < kTile; ++r) {
    c.code[r] = nearest_integer(clamped(c.w[r] / c.scale[r] + c.shift[r], 0.0f, top));
    c.level[r] = (c.code[r] - c.shift[r]) * c.scale[r];
  }
}

REFRAIN_SIMD void uniform_stochastic(Column& c, float top) {
#pragma omp simd
  for (int64_t r = 0; r < kTile; ++r) {
    const float position = clamped(c.w[r] / c.scale[r] + c.shift[r], -1.0f, top + 1);
    const float rounded = nearest_integer(position);
    const float below = rounded > position ? rounded - 1 : rounded;
    c.code[r] = clamped(c.dither[r] < position - below ? below + 1 : below, 0.0f, top);
    c.level[r] = (c.code[r] - c.shift[r]) * c.scale[r];
  }
}

REFRAIN_SIMD void table_nearest(Column& c, const ColumnBlock& b) {
  const auto top = static_cast<int64_t>(b.top);
  for (float& code : c.code) code = 0;
  for (int64_t k = 0; k < top; ++k) {
#pragma omp simd
    for (int64_t r = 0; r < kTile; ++r) c.code[r] += b.middles[k] < c.w[r] / c.scale[r] ? 1.0f : 0.0f;
  }
  for (int64_t r = 0; r < kTile; ++r) c.level[r] = b.table[static_cast<int64_t>(c.code[r])] * c.scale[r];
}

void table_stochastic(Column& c, const ColumnBlock& b) {
  const auto top = static_cast<int64_t>(b.top);
  for (int64_t r = 0; r < kTile; ++r) {
    const float x = clamped(c.w[r] / c.scale[r], b.table[0], b.table[top]);
    const int64_t above = std::upper_bound(b.table, b.table + top + 1, x) - b.table;
    const int64_t below = std::clamp<int64_t>(above - 1, 0, top - 1);
    const float low = b.table[below], high = b.table[below + 1];
    const int64_t code = below + (c.dither[r] < (x - low) / (high - low) ? 1 : 0);
    c.code[r] = static_cast<float>(code);
    c.level[r] = b.table[code] * c.scale[r];
  }
}

void choose(Column& c, const ColumnBlock& b) {
  if (b.table != nullptr) return b.dither != nullptr ? table_stochastic(c, b) : table_nearest(c, b);
  return b.dither != nullptr ? uniform_stochastic(c, b.top) : uniform_nearest(c, b.top);
}

// w ← w − Σ_i errors[i] u[i, j] over the columns i to the left, in their order. errors: [j, kTile], u: column j of U.
REFRAIN_SIMD void spread(float* w, const float* errors, const float* u, int64_t j) {
  float sum[kTile];
  for (int64_t r = 0; r < kTile; ++r) sum[r] = w[r];
  for (int64_t i = 0; i < j; ++i) {
#pragma omp simd
    for (int64_t r = 0; r < kTile; ++r) sum[r] -= errors[i * kTile + r] * u[i];
  }
  for (int64_t r = 0; r < kTile; ++r) w[r] = sum[r];
}

// What the kernel reads of rows row … row + rows − 1 in column j; the rows missing in a tile are harmless numbers.
Column load(const ColumnBlock& b, int64_t row, int64_t rows, int64_t j) {
  Column c;
  for (int64_t r = 0; r < kTile; ++r) {
    const bool there = r < rows;
    const int64_t at = (row + r) * b.stride + j, group = (row + r) * b.groups + b.group[j];
    c.w[r] = there ? b.w[at] : 0.0f;
    c.scale[r] = there ? b.scale[group] : 1.0f;
    c.shift[r] = there && b.shift != nullptr ? b.shift[group] : 0.0f;
    c.dither[r] = there && b.dither != nullptr ? b.dither[at] : 0.0f;
  }
  return c;
}

}  // namespace

void quantize_columns(const ColumnBlock& b, int64_t first, int64_t last) {
  const int64_t n = b.columns;
  std::vector<float> columns(n * n), errors(n * kTile);  // U transposed: column j of U is contiguous
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) columns[j * n + i] = b.u[i * b.u_stride + j];
  }
  for (int64_t row = first; row < last; row += kTile) {
    const int64_t rows = std::min(kTile, last - row);
    for (int64_t j = 0; j < n; ++j) {
      Column c = load(b, row, rows, j);
      spread(c.w, errors.data(), columns.data() + j * n, j);
      choose(c, b);
      const float diagonal = columns[j * n + j];
      for (int64_t r = 0; r < kTile; ++r) errors[j * kTile + r] = (c.w[r] - c.level[r]) / diagonal;
      for (int64_t r = 0; r < rows; ++r) {
        b.codes[(row + r) * b.stride + j] = static_cast<uint8_t>(c.code[r]);
        b.errors[(row + r) * n + j] = errors[j * kTile + r];
      }
    }
  }
}

}  // namespace quant
