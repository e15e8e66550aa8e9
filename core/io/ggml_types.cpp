// Compiled without contraction of products and sums (CMakeLists.txt): w = d q + m is rounded twice, as in the
// reference.
#include "core/io/ggml_types.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cstring>
#include <vector>

namespace core {

float float_of_half(uint16_t bits) {
  const uint32_t sign = uint32_t{bits & 0x8000u} << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023;
  if (exponent == 0) {  // zero or subnormal: mantissa · 2^-24, which float32 holds exactly
    const float value = static_cast<float>(mantissa) * 0x1p-24f;
    return sign == 0 ? value : -value;
  }
  const uint32_t wide = exponent == 31 ? 255 : exponent + 112;
  return std::bit_cast<float>(sign | wide << 23 | mantissa << 13);
}

namespace {

using Bytes = const uint8_t*;

uint32_t little16(Bytes at) { return static_cast<uint32_t>(at[0]) | static_cast<uint32_t>(at[1]) << 8; }
uint32_t little32(Bytes at) { return little16(at) | little16(at + 2) << 16; }
float half_at(Bytes at) { return float_of_half(static_cast<uint16_t>(little16(at))); }
int nibble(uint8_t byte, bool high) { return high ? byte >> 4 : byte & 15; }

// ---- one block each; `b` its bytes, `w` its weights ----

void f32(Bytes b, float* w) { w[0] = std::bit_cast<float>(little32(b)); }
void f16(Bytes b, float* w) { w[0] = half_at(b); }
void bf16(Bytes b, float* w) { w[0] = std::bit_cast<float>(little16(b) << 16); }

// ---- blocks of codes, taken apart ----

// 128 weights ±d: d, a bit each.
void q1_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  for (int i = 0; i < 128; ++i) to.codes[i] = b[2 + i / 8] >> i % 8 & 1;
}

// 64 weights (c - 1) d: d, two bits each.
void q2_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  for (int i = 0; i < 64; ++i) to.codes[i] = b[2 + i / 4] >> 2 * (i % 4) & 3;
}

// 32 weights in 16 bytes: byte j has weight j in its low half, weight j + 16 in its high half.
void q4_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  for (int i = 0; i < 32; ++i) to.codes[i] = nibble(b[2 + i % 16], i >= 16);
}

void q4_1(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  to.minimum = half_at(b + 2);
  for (int i = 0; i < 32; ++i) to.codes[i] = nibble(b[4 + i % 16], i >= 16);
}

// The fifth bits come first, bit i of the word that of weight i.
int five_bits(Bytes fifth, Bytes low, int i) {
  return nibble(low[i % 16], i >= 16) | static_cast<int>(little32(fifth) >> i & 1) << 4;
}

void q5_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  for (int i = 0; i < 32; ++i) to.codes[i] = five_bits(b + 2, b + 6, i);
}

void q5_1(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  to.minimum = half_at(b + 2);
  for (int i = 0; i < 32; ++i) to.codes[i] = five_bits(b + 4, b + 8, i);
}

// Signed bytes, here codes from 0 on.
void q8_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b);
  for (int i = 0; i < 32; ++i) to.codes[i] = b[2 + i] ^ 128;
}

// The codes of 256 weights, two bits each: weight 128 a + 32 s + e in byte 32 a + e, bits 2 s and 2 s + 1.
int two_bits(Bytes codes, int i) { return codes[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3; }

// 16 groups of 16: scale and minimum of four bits each, in units of d and dmin.
void q2_k(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b + 80);
  to.minimum = half_at(b + 82);
  for (int t = 0; t < 16; ++t) {
    to.multiple[t] = b[t] & 15;
    to.minimum_multiple[t] = b[t] >> 4;
  }
  for (int i = 0; i < 256; ++i) to.codes[i] = two_bits(b + 16, i);
}

// 16 groups of 16, scales of six bits, biased by 32; codes of three bits, the highest apart.
void q3_k(Bytes b, GgmlBlock& to) {
  const Bytes packed = b + 96;
  to.scale = half_at(b + 108);
  for (int t = 0; t < 16; ++t) {
    const int low = nibble(packed[t % 8], t >= 8), high = packed[8 + t % 4] >> t / 4 * 2 & 3;
    to.multiple[t] = static_cast<int8_t>((low | high << 4) - 32);
  }
  for (int i = 0; i < 256; ++i) to.codes[i] = two_bits(b + 32, i) | (b[i % 32] >> i / 32 & 1) << 2;
}

// Eight groups of 32 weights, scale and minimum of six bits each in the twelve bytes behind d and dmin.
void six_bits(Bytes b, GgmlBlock& to) {
  const Bytes packed = b + 4;
  to.scale = half_at(b);
  to.minimum = half_at(b + 2);
  for (int t = 0; t < 4; ++t) {
    to.multiple[t] = static_cast<int8_t>(packed[t] & 63);
    to.minimum_multiple[t] = packed[t + 4] & 63;
    to.multiple[t + 4] = static_cast<int8_t>((packed[t + 8] & 15) | packed[t] >> 6 << 4);
    to.minimum_multiple[t + 4] = packed[t + 8] >> 4 | packed[t + 4] >> 6 << 4;
  }
}

// Byte 32 c + e has weight 64 c + e below weight 64 c + 32 + e.
int four_bits(Bytes low, int i) { return nibble(low[i / 64 * 32 + i % 32], i % 64 >= 32); }

void q4_k(Bytes b, GgmlBlock& to) {
  six_bits(b, to);
  for (int i = 0; i < 256; ++i) to.codes[i] = four_bits(b + 16, i);
}

void q5_k(Bytes b, GgmlBlock& to) {
  six_bits(b, to);
  for (int i = 0; i < 256; ++i) to.codes[i] = four_bits(b + 48, i) | (b[16 + i % 32] >> i / 32 & 1) << 4;
}

// 16 groups of 16, scales of eight bits, codes of six: four low bits in ql, two high ones in qh.
void q6_k(Bytes b, GgmlBlock& to) {
  const Bytes ql = b, qh = b + 128, scales = b + 192;
  to.scale = half_at(b + 208);
  for (int t = 0; t < 16; ++t) to.multiple[t] = static_cast<int8_t>(scales[t]);
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, e = i % 32;
    const int low = nibble(ql[64 * half + quarter % 2 * 32 + e], quarter >= 2);
    to.codes[i] = low | (qh[32 * half + e] >> 2 * quarter & 3) << 4;
  }
}

void tq2_0(Bytes b, GgmlBlock& to) {
  to.scale = half_at(b + 64);
  for (int i = 0; i < 256; ++i) to.codes[i] = two_bits(b, i);
}

// The levels of a block, in the order of ggml's products and sums.
void put_levels(const GgmlGrid& grid, const GgmlBlock& block, int64_t weights, float* w) {
  for (int64_t first = 0; first < weights; first += grid.group) {
    const int64_t t = first / grid.group;
    const float scale = grid.is_two_level() ? block.scale * static_cast<float>(block.multiple[t]) : block.scale;
    const uint8_t* k = block.codes.data() + first;
    if (!grid.has_minimum) {
      const int zero = static_cast<int>(grid.zero), step = static_cast<int>(grid.step);
      for (int64_t i = 0; i < grid.group; ++i) w[first + i] = static_cast<float>(step * k[i] - zero) * scale;
      continue;
    }
    const float minimum =
        grid.is_two_level() ? -(block.minimum * static_cast<float>(block.minimum_multiple[t])) : block.minimum;
    for (int64_t i = 0; i < grid.group; ++i) w[first + i] = static_cast<float>(k[i]) * scale + minimum;
  }
}

// ---- other blocks; `b` its bytes, `w` its weights ----

// The levels of IQ4_NL, a table of llama.cpp.
constexpr std::array<int, 16> kLevels{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl(Bytes b, float* w) {
  const float d = half_at(b);
  for (int i = 0; i < 32; ++i) w[i] = static_cast<float>(kLevels[nibble(b[2 + i % 16], i >= 16)]) * d;
}

// Trit n of a byte that holds five of them as a fraction of 256 in base three.
int trit(uint8_t byte, int n) {
  constexpr std::array<int, 5> kPowers{1, 3, 9, 27, 81};
  return static_cast<uint8_t>(byte * kPowers[n]) * 3 >> 8;
}

// 256 weights (t - 1) d: five trits a byte in 32 and 16 bytes, four a byte in the last 4.
void tq1_0(Bytes b, float* w) {
  const float d = half_at(b + 52);
  const auto put = [&](Bytes from, int bytes, int trits) {
    for (int n = 0; n < trits; ++n) {
      for (int m = 0; m < bytes; ++m) *w++ = static_cast<float>(trit(from[m], n) - 1) * d;
    }
  };
  put(b, 32, 5);
  put(b + 32, 16, 5);
  put(b + 48, 4, 4);
}

template <void (*one)(Bytes, float*), int64_t block, size_t bytes>
void decode(const std::byte* from, int64_t blocks, float* to) {
  for (auto at = reinterpret_cast<Bytes>(from); blocks-- > 0; at += bytes, to += block) one(at, to);
}

template <void (*one)(Bytes, float*), int64_t block, size_t bytes>
constexpr GgmlType readable(uint32_t id, const char* name) {
  return {id, name, block, bytes, decode<one, block, bytes>};
}

template <void (*one)(Bytes, GgmlBlock&)>
void take_apart(const std::byte* block, GgmlBlock& to) {
  one(reinterpret_cast<Bytes>(block), to);
}

constexpr GgmlGrid symmetric(int64_t bits, int64_t group, int64_t zero, int64_t scale_bits = 0) {
  return {bits, group, zero, false, scale_bits, true};
}
constexpr GgmlGrid plus_and_minus(int64_t group) { return {1, group, 1, false, 0, true, 2}; }
constexpr GgmlGrid with_minimum(int64_t bits, int64_t group, int64_t scale_bits = 0) {
  return {bits, group, 0, true, scale_bits, false};
}

template <void (*one)(Bytes, GgmlBlock&), int64_t block, size_t bytes, GgmlGrid grid>
void decode_codes(const std::byte* from, int64_t blocks, float* to) {
  GgmlBlock apart;
  for (auto at = reinterpret_cast<Bytes>(from); blocks-- > 0; at += bytes, to += block) {
    one(at, apart);
    put_levels(grid, apart, block, to);
  }
}

template <void (*one)(Bytes, GgmlBlock&), int64_t block, size_t bytes, GgmlGrid grid>
constexpr GgmlType coded(uint32_t id, const char* name) {
  return {id, name, block, bytes, decode_codes<one, block, bytes, grid>, grid, take_apart<one>};
}

const std::vector<GgmlType>& types() {
  static const std::vector<GgmlType> all{
      readable<f32, 1, 4>(0, "F32"),
      readable<f16, 1, 2>(1, "F16"),
      readable<bf16, 1, 2>(30, "BF16"),
      coded<q1_0, 128, 18, plus_and_minus(128)>(41, "Q1_0"),
      coded<q2_0, 64, 18, symmetric(2, 64, 1)>(42, "Q2_0"),
      coded<q4_0, 32, 18, symmetric(4, 32, 8)>(2, "Q4_0"),
      coded<q4_1, 32, 20, with_minimum(4, 32)>(3, "Q4_1"),
      coded<q5_0, 32, 22, symmetric(5, 32, 16)>(6, "Q5_0"),
      coded<q5_1, 32, 24, with_minimum(5, 32)>(7, "Q5_1"),
      coded<q8_0, 32, 34, symmetric(8, 32, 128)>(8, "Q8_0"),
      coded<q2_k, 256, 84, with_minimum(2, 16, 4)>(10, "Q2_K"),
      coded<q3_k, 256, 110, symmetric(3, 16, 4, 6)>(11, "Q3_K"),
      coded<q4_k, 256, 144, with_minimum(4, 32, 6)>(12, "Q4_K"),
      coded<q5_k, 256, 176, with_minimum(5, 32, 6)>(13, "Q5_K"),
      coded<q6_k, 256, 210, symmetric(6, 16, 32, 8)>(14, "Q6_K"),
      readable<iq4_nl, 32, 18>(20, "IQ4_NL"),
      readable<tq1_0, 256, 54>(34, "TQ1_0"),
      coded<tq2_0, 256, 66, symmetric(2, 256, 1)>(35, "TQ2_0"),
      // Known by size, so that a file that holds one is checked as a whole; refused when such a tensor is used.
      {9, "Q8_1", 32, 36, nullptr},
      {15, "Q8_K", 256, 292, nullptr},
      {16, "IQ2_XXS", 256, 66, nullptr},
      {17, "IQ2_XS", 256, 74, nullptr},
      {18, "IQ3_XXS", 256, 98, nullptr},
      {19, "IQ1_S", 256, 50, nullptr},
      {21, "IQ3_S", 256, 110, nullptr},
      {22, "IQ2_S", 256, 82, nullptr},
      {23, "IQ4_XS", 256, 136, nullptr},
      {24, "I8", 1, 1, nullptr},
      {25, "I16", 1, 2, nullptr},
      {26, "I32", 1, 4, nullptr},
      {27, "I64", 1, 8, nullptr},
      {28, "F64", 1, 8, nullptr},
      {29, "IQ1_M", 256, 56, nullptr},
      {39, "MXFP4", 32, 17, nullptr},
      {40, "NVFP4", 64, 36, nullptr},
  };
  return all;
}

}  // namespace

const GgmlType* find_ggml_type(uint32_t id) {
  const auto found = std::find_if(types().begin(), types().end(), [&](const GgmlType& type) { return type.id == id; });
  return found == types().end() ? nullptr : &*found;
}

const GgmlType* find_ggml_type(std::string_view name) {
  const auto equal = [](char a, char b) { return a == std::toupper(static_cast<unsigned char>(b)); };
  const auto found = std::find_if(types().begin(), types().end(), [&](const GgmlType& type) {
    const std::string_view own = type.name;
    return std::equal(own.begin(), own.end(), name.begin(), name.end(), equal);
  });
  return found == types().end() ? nullptr : &*found;
}

std::vector<const GgmlType*> coded_ggml_types() {
  std::vector<const GgmlType*> all;
  for (const GgmlType& type : types()) {
    if (type.take_apart != nullptr) all.push_back(&type);
  }
  std::stable_sort(all.begin(), all.end(), [](const auto* a, const auto* b) { return a->bits() < b->bits(); });
  return all;
}

std::string readable_ggml_types() {
  std::vector<std::string> names;
  for (const GgmlType& type : types()) {
    if (type.decode != nullptr) names.emplace_back(type.name);
  }
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace core
