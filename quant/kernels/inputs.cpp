#include "quant/kernels/inputs.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>

#include "core/simd.h"

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
  scales.assign(precision == Precision::integer ? layout.padded_columns() / layout.input_group() * N : 0, 0);
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

namespace {

// q = x / scale to the nearest, half to even, in −127 … 127, of n numbers that share scale = max |x| / 127; NaN when
// one of them is not finite. Without its sign, a float orders as the integer of its bits does.
[[gnu::always_inline]] inline void round_together(const float* x, int64_t n, int8_t* q, float& scale) {
  int32_t largest = 0;
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
  scale = largest < 0x7f800000 ? std::bit_cast<float>(largest) / 127 : std::numeric_limits<float>::quiet_NaN();
  const float step = scale > 0 ? scale : 1;
  constexpr float kInteger = 1.5f * (1 << 23);  // a sum with it has no fraction
  for (int64_t i = 0; i < n; ++i) {
    const float steps = x[i] / step + kInteger - kInteger;
    q[i] = static_cast<int8_t>(static_cast<int32_t>(std::min(std::max(-127.0f, steps), 127.0f)));  // NaN: −127
  }
}

[[gnu::always_inline]] inline int32_t sum_of(const int8_t* q, int64_t n) {  // exact in float32: 4096 · 127 < 2^24
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += q[i];
  return sum;
}

REFRAIN_SIMD void round_row(const float* x, int64_t n, int8_t* q, float& scale) { round_together(x, n, q, scale); }

REFRAIN_SIMD float sum_of_steps(const int8_t* q, int64_t n) { return static_cast<float>(sum_of(q, n)); }

// `count` groups of kInputGroup numbers: q [count · kInputGroup]; their scales, and the sums of what they became
// [count].
REFRAIN_SIMD void round_groups(const float* x, int64_t count, int8_t* q, float* scales, float* sums) {
  for (int64_t g = 0; g < count; ++g, x += kInputGroup, q += kInputGroup) {
    round_together(x, kInputGroup, q, scales[g]);
    sums[g] = scales[g] * static_cast<float>(sum_of(q, kInputGroup));
  }
}

}  // namespace

void Inputs::round(const Layout& layout, const float* x, int64_t j) {
  const int64_t N = padded_count, group = layout.input_group();
  rounded_.resize(layout.columns);
  if (layout.has_input_groups()) {
    const int64_t groups = layout.columns / kInputGroup;
    group_scales_.resize(groups);
    group_sums_.resize(groups);
    round_groups(x, groups, rounded_.data(), group_scales_.data(), group_sums_.data());
    for_each_span(layout, [&](int64_t s, int64_t first, int64_t end) {
      float* to = scales.data() + s * (layout.span / group) * N + j;
      for (int64_t g = first / group; g < end / group; ++g, to += N) {
        *to = group_scales_[g];
        sums[s * N + j] += group_sums_[g];
      }
    });
  } else {
    float scale = 0;
    round_row(x, layout.columns, rounded_.data(), scale);
    for_each_span(layout, [&](int64_t s, int64_t first, int64_t end) {
      scales[s * N + j] = scale;
      sums[s * N + j] = scale * sum_of_steps(rounded_.data() + first, end - first);
    });
  }
  for_each_span(layout, [&](int64_t s, int64_t first, int64_t end) {
    int8_t* to = integer.data() + s * layout.span * N + j * 4;  // four columns of this input, then of the next
    const int8_t* from = rounded_.data() + first;
    if (N == 1) {
      std::copy_n(from, end - first, to);
      return;
    }
    const int64_t whole = (end - first) / 4 * 4;
    for (int64_t i = 0; i < whole; i += 4) std::memcpy(to + i * N, from + i, 4);
    for (int64_t i = whole; i < end - first; ++i) to[whole * N + i - whole] = from[i];
  });
}

}  // namespace quant::kernels
