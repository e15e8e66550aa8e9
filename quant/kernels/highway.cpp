// The packed products with Highway: this file is compiled once per instruction set. A lane is an output row, so there
// are no sums across lanes: codes of 16 rows are loaded once, unpacked to bytes, and multiplied with as many inputs as
// there are (span-inl.h); scales and zero points enter once per span, one multiplication for 16 rows.
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/kernels/highway.cpp"
#define HWY_WANT_AVX3_DL
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128)
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "quant/kernels/product.h"
#include "quant/kernels/span-inl.h"

HWY_BEFORE_NAMESPACE();
#if HWY_TARGET == HWY_AVX3_DL
HWY_PUSH_ATTRIBUTES("avx512vnni")
#endif
namespace quant::kernels {
namespace HWY_NAMESPACE {

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

// N inputs and R sets of parameters: one of the two is 1, or both are the same and every input has its own set.
enum class Kind { integer, real, table, window };

template <int kBits, int N, int R, Kind kKind>
HWY_INLINE void tile_lanes(const Product& p, int64_t tile, int64_t lane) {
  const Floats df;
  const Layout& layout = *p.layout;
  const Inputs& inputs = *p.inputs;
  const int64_t spans = layout.spans(), blocks = layout.span / layout.block_columns(), span_words = layout.span_words();
  const int64_t input_group = layout.input_group(), input_groups = layout.span / input_group;
  const int64_t group_blocks = blocks / input_groups, group_words = span_words / input_groups;
  const uint32_t* words = p.codes + layout.first_word() + tile * layout.tile_words() + lane;
  const float* sums = inputs.sums.data();
  const int8_t* integer = inputs.integer.data();
  const float* input_scales = inputs.scales.data();
  const float* real = inputs.real.data();
  constexpr bool kHasLevels = kKind == Kind::table || kKind == Kind::window;  // and so no zero point
  constexpr int kOutputs = N > R ? N : R;
  VF y[kOutputs];
#pragma GCC unroll 8
  for (int i = 0; i < kOutputs; ++i) y[i] = hn::Zero(df);
  for (int64_t s = 0; s < spans; ++s, words += span_words, sums += N) {
    VF dot[N];
    if constexpr (kKind == Kind::window) {
      window_span<N>(words, real, blocks, layout.window_bits, lane, p.sets[0].table, dot);
      real += layout.span * N;
    } else if constexpr (kKind == Kind::integer) {
#pragma GCC unroll 8
      for (int j = 0; j < N; ++j) dot[j] = hn::Zero(df);
      for (int64_t g = 0; g < input_groups; ++g, integer += input_group * N, input_scales += N) {
        VI exact[N];
        integer_span<kBits, N>(words + g * group_words, integer, group_blocks, exact);
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j)
          dot[j] = hn::MulAdd(hn::Set(df, input_scales[j]), hn::ConvertTo(df, exact[j]), dot[j]);
      }
    } else {
      real_span<kBits, N, kKind == Kind::table>(words, real, blocks, p.sets[0].table, dot);
      real += layout.span * N;
    }
    VF scale, zero;
#pragma GCC unroll 8
    for (int i = 0; i < kOutputs; ++i) {
      if (i == 0 || R > 1) {
        const Parameters& set = p.sets[N == 1 || i < p.set_count ? i : 0];  // inputs may be padded
        const int64_t at = (tile * spans + s) * set.span_values() + lane;
        scale = load_parameter(set, at);
        zero = set.has_zeros ? load_parameter(set, at + kTileRows) : hn::Set(df, set.constant_zero);
      }
      const int j = N == 1 ? 0 : i;
      const VF steps = kHasLevels ? dot[j] : hn::NegMulAdd(zero, hn::Set(df, sums[j]), dot[j]);
      y[i] = hn::MulAdd(scale, steps, y[i]);
    }
  }
  const int64_t outputs = N == 1 ? R : inputs.count;
  for (int64_t i = 0; i < outputs; ++i) store(p, tile, lane, i, y[i]);
}

template <int kBits, int N, int R, Kind kKind>
HWY_NOINLINE void tiles(const Product& p, int64_t first, int64_t last) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(Floats()));
  for (int64_t tile = first; tile < last; ++tile) {
    for (int64_t lane = 0; lane < kTileRows; lane += lanes) {
      tile_lanes<kBits, N, R, kKind>(p, tile, lane);
    }
  }
}

// ---- which of them ----

template <int kBits, int N, int R>
void of_kind(const Product& p, int64_t first, int64_t last) {
  const bool is_integer = p.inputs->precision == Precision::integer;
  if (p.layout->window_bits > 0) {
    if constexpr (kBits == 2) tiles<kBits, N, R, Kind::window>(p, first, last);
  } else if (p.sets[0].table != nullptr) {
    tiles<kBits, N, R, Kind::table>(p, first, last);
  } else if (is_integer) {
    tiles<kBits, N, R, Kind::integer>(p, first, last);
  } else {
    tiles<kBits, N, R, Kind::real>(p, first, last);
  }
}

// Several sets on one input, four, two or one at a time.
template <int kBits>
void of_sets(const Product& p, int64_t first, int64_t last) {
  Product part = p;
  for (int64_t left = p.set_count; left > 0; left = p.set_count - (part.sets - p.sets)) {
    const int64_t n = left >= 4 ? 4 : left >= 2 ? 2 : 1;
    if (n == 4) of_kind<kBits, 1, 4>(part, first, last);
    if (n == 2) of_kind<kBits, 1, 2>(part, first, last);
    if (n == 1) of_kind<kBits, 1, 1>(part, first, last);
    part.sets += n;
    part.out += n * part.out_stride;
  }
}

// Several inputs with one set for all, or each with its own.
template <int kBits, int N>
void of_inputs(const Product& p, int64_t first, int64_t last) {
  p.set_count == 1 ? of_kind<kBits, N, 1>(p, first, last) : of_kind<kBits, N, N>(p, first, last);
}

template <int kBits>
void of_bits(const Product& p, int64_t first, int64_t last) {
  switch (p.inputs->padded_count) {
    case 1:
      return of_sets<kBits>(p, first, last);
    case 2:
      return of_inputs<kBits, 2>(p, first, last);
    case 4:
      return of_inputs<kBits, 4>(p, first, last);
    default:
      return of_inputs<kBits, 8>(p, first, last);
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
