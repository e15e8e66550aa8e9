// Part of highway.cpp, compiled once per instruction set: codes of a span times inputs, before scales.
//
// `integer`: four columns at a time, by the 8-bit dot product where the CPU has one (AVX-512 VNNI; Arm's through
// Highway 1.1). For one or two inputs the codes are not even shifted: (word & mask << p b) is 2^(p b) times the code,
// and the sum over a span is shifted instead. `real`: a column at a time, converted to float32, fused multiply-add.
#if defined(REFRAIN_SPAN_INL_H) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_SPAN_INL_H
#undef REFRAIN_SPAN_INL_H
#else
#define REFRAIN_SPAN_INL_H
#endif

#include <hwy/highway.h>

#include <cstring>

#include "quant/kernels/product.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")  // the CPUs of this target have it, Highway 1.0's flags forget it
#endif
namespace quant::kernels {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

using Words = hn::CappedTag<uint32_t, kTileRows>;
using Ints = hn::RebindToSigned<Words>;
using Floats = hn::RebindToFloat<Words>;
using VW = hn::Vec<Words>;
using VI = hn::Vec<Ints>;
using VF = hn::Vec<Floats>;

// ---- the 8-bit dot product ----

#if HWY_TARGET == HWY_AVX3_DL
constexpr bool kHasByteDot = true;
#else
constexpr bool kHasByteDot = false;
#endif

// sum + Σ_c byte c of u (unsigned, < 2^kBits) · byte c of x (signed), per lane.
template <int kBits>
HWY_INLINE VI byte_dot(VW u, VW x, VI sum) {
  const Ints di;
#if HWY_TARGET == HWY_AVX3_DL
  (void)di;
  return VI{_mm512_dpbusd_epi32(sum.raw, u.raw, x.raw)};
#elif HWY_MAJOR > 1 || HWY_MINOR >= 1
  const hn::Repartition<uint8_t, Words> du8;
  const hn::Repartition<int8_t, Words> di8;
  return hn::SumOfMulQuadAccumulate(di, hn::BitCast(du8, u), hn::BitCast(di8, x), sum);
#elif HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX2
  if constexpr (kBits > 4) {  // pairs would not fit 16 bits: the halves of every code one after the other
    const VW half = hn::Set(Words(), 0x0f0f0f0fu);
    const VI high = byte_dot<4>(hn::And(hn::ShiftRight<4>(u), half), x, hn::Zero(di));
    return byte_dot<4>(hn::And(u, half), x, hn::Add(sum, hn::ShiftLeft<4>(high)));
  } else {
#if HWY_TARGET == HWY_AVX3
    return hn::Add(sum, VI{_mm512_madd_epi16(_mm512_maddubs_epi16(u.raw, x.raw), _mm512_set1_epi16(1))});
#else
    return hn::Add(sum, VI{_mm256_madd_epi16(_mm256_maddubs_epi16(u.raw, x.raw), _mm256_set1_epi16(1))});
#endif
  }
#else
  const VI signed_x = hn::BitCast(di, x), mask = hn::Set(di, 0xff), signed_u = hn::BitCast(di, u);
  sum = hn::Add(sum, hn::Mul(hn::And(signed_u, mask), hn::ShiftRight<24>(hn::ShiftLeft<24>(signed_x))));
  sum = hn::Add(sum,
                hn::Mul(hn::And(hn::ShiftRight<8>(signed_u), mask), hn::ShiftRight<24>(hn::ShiftLeft<16>(signed_x))));
  sum = hn::Add(sum,
                hn::Mul(hn::And(hn::ShiftRight<16>(signed_u), mask), hn::ShiftRight<24>(hn::ShiftLeft<8>(signed_x))));
  return hn::Add(sum, hn::Mul(hn::And(hn::ShiftRight<24>(signed_u), mask), hn::ShiftRight<24>(signed_x)));
#endif
}

// Four bytes of an input, in every lane.
HWY_INLINE VW broadcast4(const int8_t* x) {
  uint32_t four;
  std::memcpy(&four, x, sizeof(four));
  return hn::Set(Words(), four);
}

// ---- codes ----

template <int kBits>
constexpr int kPlanes = kBits == 3 ? 8 : 8 / kBits;  // of four columns each, in a block
template <int kBits>
constexpr int kBlockWords = kBits == 3 ? 3 : 1;
template <int kBits>
constexpr uint32_t kMask = 0x01010101u * ((1u << kBits) - 1);

// The codes of one block, one per byte: plane p has columns 4 p … 4 p + 3.
template <int kBits>
HWY_INLINE void unpack(const uint32_t* words, VW (&plane)[kPlanes<kBits>]) {
  const Words dw;
  const VW mask = hn::Set(dw, kMask<kBits>);
  VW v = hn::LoadU(dw, words);
#pragma GCC unroll 8
  for (int p = 0; p < kPlanes<kBits>; ++p) {
    plane[p] = hn::And(v, mask);
    if (p + 1 < kPlanes<kBits>) v = hn::ShiftRight<kBits % 8>(v);
  }
}

template <>
HWY_INLINE void unpack<3>(const uint32_t* words, VW (&plane)[8]) {
  const Words dw;
  const VW two = hn::Set(dw, kMask<2>), third = hn::Set(dw, 0x04040404u);
  const VW high = hn::LoadU(dw, words + 2 * kTileRows);
  VW low = hn::LoadU(dw, words), shifted = high;
  plane[0] = hn::Or(hn::And(low, two), hn::And(hn::ShiftLeft<2>(high), third));
  low = hn::ShiftRight<2>(low);
  plane[1] = hn::Or(hn::And(low, two), hn::And(hn::ShiftLeft<1>(high), third));
#pragma GCC unroll 8
  for (int p = 2; p < 8; ++p) {
    low = p == 4 ? hn::LoadU(dw, words + kTileRows) : hn::ShiftRight<2>(low);
    plane[p] = hn::Or(hn::And(low, two), hn::And(shifted, third));
    shifted = hn::ShiftRight<1>(shifted);
  }
}

// ---- one span: what is summed before scales ----

// dot[j] = Σ k x[j].
template <int kBits, int N>
HWY_INLINE void integer_span(const uint32_t* words, const int8_t* x, int64_t blocks, VI (&dot)[N]) {
  const Words dw;
  constexpr int P = kPlanes<kBits>;
  if constexpr (kHasByteDot && kBits != 3 && kBits != 8 && N <= 2) {
    VI sum[N][P];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) sum[j][p] = hn::Zero(Ints());
    }
    for (int64_t b = 0; b < blocks; ++b, words += kTileRows, x += 4 * P * N) {
      const VW v = hn::LoadU(dw, words);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
        const VW u = hn::And(v, hn::Set(dw, kMask<kBits> << (kBits * p)));
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) sum[j][p] = byte_dot<8>(u, broadcast4(x + 4 * (p * N + j)), sum[j][p]);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) {  // sum[j][p] is a multiple of 2^(p b)
      dot[j] = sum[j][P - 1];
#pragma GCC unroll 8
      for (int p = P - 2; p >= 0; --p) dot[j] = hn::Add(sum[j][p], hn::ShiftRight<kBits>(dot[j]));
    }
  } else {
#pragma GCC unroll 8
    for (int j = 0; j < N; ++j) dot[j] = hn::Zero(Ints());
    for (int64_t b = 0; b < blocks; ++b, words += kBlockWords<kBits> * kTileRows, x += 4 * P * N) {
      VW plane[P];
      unpack<kBits>(words, plane);
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) dot[j] = byte_dot<kBits>(plane[p], broadcast4(x + 4 * (p * N + j)), dot[j]);
      }
    }
  }
}

// What a code of the lane counts: the code, or its level in the table.
template <int kBits, bool kTable>
HWY_INLINE VF value_of(VW code, const float* table) {
  const Floats df;
  const VI index = hn::BitCast(Ints(), code);
  if constexpr (!kTable) return hn::ConvertTo(df, index);
  return hn::GatherIndex(df, table, index);
}

template <int kBits, int N, bool kTable>
HWY_INLINE void real_span(const uint32_t* words, const float* x, int64_t blocks, const float* table, VF (&dot)[N]) {
  const Words dw;
  const Floats df;
  const VW byte = hn::Set(dw, 0xffu);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) dot[j] = hn::Zero(df);
  for (int64_t b = 0; b < blocks; ++b, words += kBlockWords<kBits> * kTileRows) {
    VW plane[kPlanes<kBits>];
    unpack<kBits>(words, plane);
#pragma GCC unroll 8
    for (int p = 0; p < kPlanes<kBits>; ++p, x += 4 * N) {
      const VF value[4] = {value_of<kBits, kTable>(hn::And(plane[p], byte), table),
                           value_of<kBits, kTable>(hn::And(hn::ShiftRight<8>(plane[p]), byte), table),
                           value_of<kBits, kTable>(hn::And(hn::ShiftRight<16>(plane[p]), byte), table),
                           value_of<kBits, kTable>(hn::ShiftRight<24>(plane[p]), table)};
#pragma GCC unroll 4
      for (int c = 0; c < 4; ++c) {
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) dot[j] = hn::MulAdd(value[c], hn::Set(df, x[c * N + j]), dot[j]);
      }
    }
  }
}

// Codes of which the newest and those before it in a tile of 16 × 16 (row by row) choose the level together: the
// window, table has a level for every one. A word holds a row's 16 columns, the first in its highest bits; what comes
// before them is the row above, the word before this one. words: of the lanes from `lane` on.
template <int N>
HWY_INLINE void window_span(const uint32_t* words, const float* x, int64_t blocks, int64_t window_bits, int64_t lane,
                            const float* table, VF (&dot)[N]) {
  const Words dw;
  const Floats df;
  const VW mask = hn::Set(dw, static_cast<uint32_t>((uint64_t{1} << window_bits) - 1));
  const auto has_no_above = hn::FirstN(dw, lane == 0 ? 1 : 0);
#pragma GCC unroll 8
  for (int j = 0; j < N; ++j) dot[j] = hn::Zero(df);
  for (int64_t b = 0; b < blocks; ++b, words += kTileRows) {
    VW codes = hn::LoadU(dw, words);
    VW window = hn::IfThenZeroElse(has_no_above, hn::LoadU(dw, words - 1));
    for (int c = 0; c < 16; ++c, x += N) {
      window = hn::And(hn::Or(hn::ShiftLeft<2>(window), hn::ShiftRight<30>(codes)), mask);
      codes = hn::ShiftLeft<2>(codes);
      const VF value = hn::GatherIndex(df, table, hn::BitCast(Ints(), window));
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) dot[j] = hn::MulAdd(value, hn::Set(df, x[j]), dot[j]);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#endif  // the include guard per instruction set
