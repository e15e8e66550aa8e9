// The packed products with Highway: this file is compiled once per instruction set. A lane is an output row, so there
// are no sums across lanes: codes of 16 rows are loaded once, unpacked to bytes, and multiplied with as many inputs as
// there are; scales and zero points enter once per span, one multiplication for 16 rows.
//
// `integer`: four columns at a time, by the 8-bit dot product where the CPU has one (AVX-512 VNNI; Arm's through
// Highway 1.1). For one or two inputs the codes are not even shifted: (word & mask << p b) is 2^(p b) times the code,
// and the sum over a span is shifted instead. `real`: a column at a time, converted to float32, fused multiply-add.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/highway.cpp"
#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#include <hwy/foreach_target.h>
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

// ---- a tile ----

HWY_INLINE VF load_parameter(const Parameters& set, int64_t i) {
  const Floats df;
  if (!set.is_half) return hn::LoadU(df, static_cast<const float*>(set.values) + i);
  const hn::Rebind<hwy::float16_t, Floats> half;
  return hn::PromoteTo(df, hn::LoadU(half, static_cast<const hwy::float16_t*>(set.values) + i));
}

// Writes lanes `lane` … of a tile of output j.
HWY_INLINE void store(const Product& p, int64_t tile, int64_t lane, int64_t j, VF y) {
  const Floats df;
  const int64_t row = tile * kTileRows + lane;
  float* to = p.out + j * p.out_stride + row;
  if (row + static_cast<int64_t>(hn::Lanes(df)) <= p.layout->rows) {
    hn::StoreU(y, df, to);
    return;
  }
  float some[kTileRows];
  hn::StoreU(y, df, some);
  for (int64_t i = 0; row + i < p.layout->rows; ++i) to[i] = some[i];
}

// N inputs and one set of parameters, or R sets and one input.
template <int kBits, int N, int R, bool kInteger, bool kTable>
HWY_INLINE void tile_lanes(const Product& p, int64_t tile, int64_t lane) {
  const Floats df;
  const Layout& layout = *p.layout;
  const Inputs& inputs = *p.inputs;
  const int64_t spans = layout.spans(), blocks = layout.span / layout.block_columns(), span_words = layout.span_words();
  const uint32_t* words = p.codes + tile * layout.tile_words() + lane;
  const float* sums = inputs.sums.data();
  const int8_t* integer = inputs.integer.data();
  const float* real = inputs.real.data();
  VF y[N * R];
#pragma GCC unroll 8
  for (int i = 0; i < N * R; ++i) y[i] = hn::Zero(df);
  for (int64_t s = 0; s < spans; ++s, words += span_words, sums += N) {
    VF dot[N];
    if constexpr (kInteger) {
      VI exact[N];
      integer_span<kBits, N>(words, integer, blocks, exact);
      integer += layout.span * N;
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) dot[j] = hn::ConvertTo(df, exact[j]);
    } else {
      real_span<kBits, N, kTable>(words, real, blocks, p.sets[0].table, dot);
      real += layout.span * N;
    }
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r) {
      const Parameters& set = p.sets[r];
      const int64_t at = (tile * spans + s) * set.span_values() + lane;
      const VF scale = load_parameter(set, at);
      const VF zero = set.has_zeros ? load_parameter(set, at + kTileRows) : hn::Set(df, set.constant_zero);
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) {
        const VF steps = kTable ? dot[j] : hn::NegMulAdd(zero, hn::Set(df, sums[j]), dot[j]);
        y[r + j] = hn::MulAdd(scale, steps, y[r + j]);
      }
    }
  }
  if constexpr (R > 1) {
    for (int r = 0; r < R; ++r) store(p, tile, lane, r, hn::Mul(y[r], hn::Set(df, inputs.scales[0])));
  } else {
    for (int64_t j = 0; j < inputs.count; ++j) store(p, tile, lane, j, hn::Mul(y[j], hn::Set(df, inputs.scales[j])));
  }
}

template <int kBits, int N, int R, bool kInteger, bool kTable>
HWY_NOINLINE void tiles(const Product& p, int64_t first, int64_t last) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  for (int64_t tile = first; tile < last; ++tile) {
    for (int64_t lane = 0; lane < kTileRows; lane += lanes) {
      tile_lanes<kBits, N, R, kInteger, kTable>(p, tile, lane);
    }
  }
}

// ---- which of them ----

template <int kBits, int N, int R>
void of_kind(const Product& p, int64_t first, int64_t last) {
  const bool is_integer = p.inputs->precision == Precision::integer;
  if (p.sets[0].table != nullptr) {
    if constexpr (R == 1) tiles<kBits, N, 1, false, true>(p, first, last);
  } else if (is_integer) {
    tiles<kBits, N, R, true, false>(p, first, last);
  } else {
    tiles<kBits, N, R, false, false>(p, first, last);
  }
}

// Several sets on one input, four, two or one at a time.
template <int kBits>
void of_sets(const Product& p, int64_t first, int64_t last) {
  Product part = p;
  for (int64_t left = p.set_count; left > 0; left = p.set_count - (part.sets - p.sets)) {
    const bool has_table = part.sets[0].table != nullptr;
    const int64_t n = has_table ? 1 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (n == 4) of_kind<kBits, 1, 4>(part, first, last);
    if (n == 2) of_kind<kBits, 1, 2>(part, first, last);
    if (n == 1) of_kind<kBits, 1, 1>(part, first, last);
    part.sets += n;
    part.out += n * part.out_stride;
  }
}

template <int kBits>
void of_bits(const Product& p, int64_t first, int64_t last) {
  switch (p.inputs->padded_count) {
    case 1:
      return of_sets<kBits>(p, first, last);
    case 2:
      return of_kind<kBits, 2, 1>(p, first, last);
    case 4:
      return of_kind<kBits, 4, 1>(p, first, last);
    default:
      return of_kind<kBits, 8, 1>(p, first, last);
  }
}

void product(const Product& p, int64_t first, int64_t last) {
  switch (p.layout->bits) {
    case 1:
      return of_bits<1>(p, first, last);
    case 2:
      return of_bits<2>(p, first, last);
    case 3:
      return of_bits<3>(p, first, last);
    case 4:
      return of_bits<4>(p, first, last);
    default:
      return of_bits<8>(p, first, last);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace quant::kernels
#if HWY_TARGET == HWY_AVX3_DL
HWY_POP_ATTRIBUTES
#endif
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <cstdlib>

#include "core/error.h"

namespace quant::kernels {

const std::vector<Kernel>& kernels() {
  const auto here = [](int64_t target) { return (hwy::SupportedTargets() & target) != 0; };
  static const std::vector<Kernel> all {
#if HWY_TARGETS & HWY_AVX3_DL
    {"avx512_vnni", here(HWY_AVX3_DL), N_AVX3_DL::product},
#endif
#if HWY_TARGETS & HWY_AVX3
        {"avx512", here(HWY_AVX3), N_AVX3::product},
#endif
#if HWY_TARGETS & HWY_AVX2
        {"avx2", here(HWY_AVX2), N_AVX2::product},
#endif
#if HWY_TARGETS & HWY_NEON
        {"neon", here(HWY_NEON), N_NEON::product},
#endif
        {"reference", true, reference_product},
  };
  return all;
}

const Kernel& kernel_named(const std::string& name) {
  std::string known;
  for (const Kernel& kernel : kernels()) {
    if (kernel.name == name && kernel.runs_here) return kernel;
    if (kernel.runs_here) known += (known.empty() ? "" : ", ") + kernel.name;
  }
  core::fail("REFRAIN_KERNEL: there is no kernel {} that runs here. Choose one of: {}; or unset it.", name, known);
}

const Kernel& chosen_kernel() {
  if (const char* name = std::getenv("REFRAIN_KERNEL"); name != nullptr && *name != '\0') return kernel_named(name);
  for (const Kernel& kernel : kernels()) {
    if (kernel.runs_here) return kernel;
  }
  return kernels().back();
}

}  // namespace quant::kernels
#endif  // HWY_ONCE
