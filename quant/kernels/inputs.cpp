#include "quant/kernels/inputs.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace quant::kernels {

void Inputs::prepare(const Layout& layout, Precision wanted, const float* x, int64_t n, int64_t stride) {
  precision = wanted;
  count = n;
  padded_count = static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(n)));
  const int64_t N = padded_count, spans = layout.spans();
  sums.assign(spans * N, 0);
  scales.assign(N, 1);
  real.assign(precision == Precision::real ? layout.padded_columns() * N : 0, 0);
  integer.assign(precision == Precision::integer ? layout.padded_columns() * N : 0, 0);
  for (int64_t j = 0; j < n; ++j) {
    const float* row = x + j * stride;
    if (precision == Precision::integer) {
      round(layout, row, j);
      continue;
    }
    for (int64_t g = 0, column = 0; g < layout.groups; ++g) {
      const int64_t end = std::min(layout.columns, column + layout.group_size);
      for (int64_t at = layout.position(column); column < end; ++column, ++at) {
        real[at * N + j] = row[column];
        sums[at / layout.span * N + j] += row[column];
      }
    }
  }
}

void Inputs::round(const Layout& layout, const float* x, int64_t j) {
  const int64_t N = padded_count;
  float largest = 0;
  bool is_finite = true;
  for (int64_t i = 0; i < layout.columns; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    is_finite = is_finite && std::isfinite(x[i]);
  }
  scales[j] = is_finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
  if (!(scales[j] > 0)) return;  // all zeros; or not a number, which the output is then too
  for (int64_t g = 0, column = 0; g < layout.groups; ++g) {
    const int64_t end = std::min(layout.columns, column + layout.group_size);
    for (int64_t at = layout.position(column); column < end; ++column, ++at) {
      const float q = std::clamp(std::nearbyint(x[column] / scales[j]), -127.0f, 127.0f);
      integer[(at / 4 * N + j) * 4 + at % 4] = static_cast<int8_t>(q);
      sums[at / layout.span * N + j] += q;  // exact: at most 4096 · 127 < 2^24
    }
  }
}

}  // namespace quant::kernels
