// The definition of the packed products: plain loops over the layout, sums in double.
#include <algorithm>
#include <vector>

#include "quant/kernels/product.h"

namespace quant::kernels {

namespace {

float parameter(const Parameters& set, int64_t i) {
  return set.is_half ? from_half(static_cast<const uint16_t*>(set.values)[i])
                     : static_cast<const float*>(set.values)[i];
}

// The code at (row, column) and those before it in its tile of 16 × 16, row by row; before the tile: 0.
uint32_t window_at(const Layout& layout, const uint32_t* words, int64_t row, int64_t column) {
  const int64_t last = row % 16 * 16 + column % 16, symbols = layout.window_bits / layout.bits;
  uint32_t window = 0;
  for (int64_t r = 0; r < symbols && r <= last; ++r) {
    const int64_t t = last - r;
    window |= code_at(layout, words, row / 16 * 16 + t / 16, column / 16 * 16 + t % 16) << (layout.bits * r);
  }
  return window;
}

// The level of one code, without its scale.
float level(const Parameters& set, uint32_t code, float zero) {
  return set.table != nullptr ? set.table[code] : static_cast<float>(code) - zero;
}

double input(const Product& p, int64_t at, int64_t j) {
  const Inputs& inputs = *p.inputs;
  const int64_t N = inputs.padded_count;
  if (inputs.precision == Precision::real) return inputs.real[at * N + j];
  const double scale = inputs.scales[at / p.layout->input_group() * N + j];
  return scale * inputs.integer[(at / 4 * N + j) * 4 + at % 4];
}

}  // namespace

void reference_product(const Product& p, int64_t first, int64_t last) {
  const Layout& layout = *p.layout;
  const int64_t end = std::min(layout.rows, last * kTileRows);
  std::vector<uint32_t> codes(layout.columns);
  for (int64_t row = first * kTileRows; row < end; ++row) {
    for (int64_t i = 0; i < layout.columns; ++i) {
      codes[i] = layout.window_bits > 0 ? window_at(layout, p.codes, row, i) : code_at(layout, p.codes, row, i);
    }
    for (int64_t out = 0; out < std::max(p.set_count, p.inputs->count); ++out) {
      const int64_t j = p.inputs->count == 1 ? 0 : out;
      const Parameters& set = p.sets[p.set_count == 1 ? 0 : out];
      double sum = 0;
      for (int64_t i = 0; i < layout.columns; ++i) {
        const int64_t at = layout.position(i);
        const int64_t from =
            (row / kTileRows * layout.spans() + at / layout.span) * set.span_values() + row % kTileRows;
        const float zero = set.has_zeros ? parameter(set, from + kTileRows) : set.constant_zero;
        const float value = level(set, codes[i], zero);
        sum += static_cast<double>(parameter(set, from)) * value * input(p, at, j);
      }
      p.out[out * p.out_stride + row] = static_cast<float>(sum);
    }
  }
}

}  // namespace quant::kernels
