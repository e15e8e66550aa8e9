#include "quant/kernels/inputs.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

namespace quant::kernels {

namespace {

// f(span, first column, column behind the last).
template <typename F>
void for_each_span(const Layout& layout, const F& f) {
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t begin = g * layout.group_size, end = std::min(layout.columns, begin + layout.group_size);
    for (int64_t s = 0; s < layout.spans_per_group; ++s) {
      const int64_t first = begin + s * layout.span;
      if (first < end) f(g * layout.spans_per_group + s, first, std::min(end, first + layout.span));
    }
  }
}

}  // namespace

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
    for_each_span(layout, [&](int64_t s, int64_t first, int64_t end) {
      float* to = real.data() + s * layout.span * N + j;
      float sum = 0;
      for (int64_t i = first; i < end; ++i, to += N) sum += * to = row[i];
      sums[s * N + j] = sum;
    });
  }
}

void Inputs::round(const Layout& layout, const float* x, int64_t j) {
  constexpr float kInteger = 1.5f * (1 << 23);  // a sum with it has no fraction: half to even, and fast
  const int64_t N = padded_count;
  float largest = 0;
  bool is_finite = true;
  for (int64_t i = 0; i < layout.columns; ++i) {
    largest = std::max(largest, std::fabs(x[i]));
    is_finite = is_finite && std::isfinite(x[i]);
  }
  const float scale = scales[j] = is_finite ? largest / 127 : std::numeric_limits<float>::quiet_NaN();
  if (!(scale > 0)) return;  // all zeros; or not a number, which the output is then too
  rounded_.resize(layout.columns);
  for (int64_t i = 0; i < layout.columns; ++i)
    rounded_[i] = std::clamp(x[i] / scale + kInteger - kInteger, -127.0f, 127.0f);
  for_each_span(layout, [&](int64_t s, int64_t first, int64_t end) {
    float sum = 0;  // exact: at most 4096 · 127 < 2^24
    for (int64_t i = first, at = s * layout.span; i < end; ++i, ++at) {
      integer[(at / 4 * N + j) * 4 + at % 4] = static_cast<int8_t>(rounded_[i]);
      sum += rounded_[i];
    }
    sums[s * N + j] = sum;
  });
}

}  // namespace quant::kernels
