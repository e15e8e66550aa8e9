// Places of bits: see the readers in core/io/ggml_types.cpp, which these functions mirror one by one.
#include "core/io/ggml_encode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

#include "core/error.h"

namespace core {

uint16_t half_of_float(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00;   // not a number
  if (magnitude >= 0x477ff000) return sign | 0x7c00;  // from 65520 on
  if (magnitude < 0x38800000)                         // below 2^-14: steps of 2^-24
    return sign | static_cast<uint16_t>(std::lrint(std::ldexp(std::bit_cast<float>(magnitude), 24)));
  const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);  // to even
  return sign | static_cast<uint16_t>((rounded >> 13) - (112 << 10));
}

namespace encoders {  // of the names that the readers have

using Bytes = uint8_t*;

static void put16(Bytes at, uint16_t value) {
  at[0] = static_cast<uint8_t>(value & 255);
  at[1] = static_cast<uint8_t>(value >> 8);
}
static void put_half(Bytes at, float value) { put16(at, half_of_float(value)); }

// ---- blocks of 32, 64 and 128 ----

static void q1_0(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  for (int i = 0; i < 128; ++i) b[2 + i / 8] |= static_cast<uint8_t>(from.codes[i] << i % 8);
}

static void q2_0(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  for (int i = 0; i < 64; ++i) b[2 + i / 4] |= static_cast<uint8_t>(from.codes[i] << 2 * (i % 4));
}

static void put_nibbles(const GgmlBlock& from, Bytes low) {
  for (int i = 0; i < 32; ++i) low[i % 16] |= static_cast<uint8_t>((from.codes[i] & 15) << (i >= 16 ? 4 : 0));
}

static void put_fifth_bits(const GgmlBlock& from, Bytes fifth) {
  for (int i = 0; i < 32; ++i) fifth[i / 8] |= static_cast<uint8_t>((from.codes[i] >> 4 & 1) << i % 8);
}

static void q4_0(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  put_nibbles(from, b + 2);
}

static void q4_1(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  put_half(b + 2, from.minimum);
  put_nibbles(from, b + 4);
}

static void q5_0(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  put_fifth_bits(from, b + 2);
  put_nibbles(from, b + 6);
}

static void q5_1(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  put_half(b + 2, from.minimum);
  put_fifth_bits(from, b + 4);
  put_nibbles(from, b + 8);
}

static void q8_0(const GgmlBlock& from, Bytes b) {
  put_half(b, from.scale);
  for (int i = 0; i < 32; ++i) b[2 + i] = from.codes[i] ^ 128;
}

// ---- blocks of 256 ----

static void put_two_bits(const GgmlBlock& from, Bytes codes) {
  for (int i = 0; i < 256; ++i)
    codes[i / 128 * 32 + i % 32] |= static_cast<uint8_t>((from.codes[i] & 3) << i % 128 / 32 * 2);
}

static void q2_k(const GgmlBlock& from, Bytes b) {
  for (int t = 0; t < 16; ++t) b[t] = static_cast<uint8_t>(from.multiple[t] | from.minimum_multiple[t] << 4);
  put_two_bits(from, b + 16);
  put_half(b + 80, from.scale);
  put_half(b + 82, from.minimum);
}

static void q3_k(const GgmlBlock& from, Bytes b) {
  for (int i = 0; i < 256; ++i) b[i % 32] |= static_cast<uint8_t>((from.codes[i] >> 2 & 1) << i / 32);
  put_two_bits(from, b + 32);
  const Bytes packed = b + 96;
  for (int t = 0; t < 16; ++t) {
    const int multiple = from.multiple[t] + 32;
    packed[t % 8] |= static_cast<uint8_t>((multiple & 15) << (t >= 8 ? 4 : 0));
    packed[8 + t % 4] |= static_cast<uint8_t>(multiple >> 4 << t / 4 * 2);
  }
  put_half(b + 108, from.scale);
}

static void put_six_bits(const GgmlBlock& from, Bytes b) {
  const Bytes packed = b + 4;
  put_half(b, from.scale);
  put_half(b + 2, from.minimum);
  for (int t = 0; t < 4; ++t) {
    const int scale = from.multiple[t + 4], minimum = from.minimum_multiple[t + 4];
    packed[t] = static_cast<uint8_t>(from.multiple[t] | scale >> 4 << 6);
    packed[t + 4] = static_cast<uint8_t>(from.minimum_multiple[t] | minimum >> 4 << 6);
    packed[t + 8] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}

static void put_four_bits(const GgmlBlock& from, Bytes low) {
  for (int i = 0; i < 256; ++i)
    low[i / 64 * 32 + i % 32] |= static_cast<uint8_t>((from.codes[i] & 15) << (i % 64 >= 32 ? 4 : 0));
}

static void q4_k(const GgmlBlock& from, Bytes b) {
  put_six_bits(from, b);
  put_four_bits(from, b + 16);
}

static void q5_k(const GgmlBlock& from, Bytes b) {
  put_six_bits(from, b);
  for (int i = 0; i < 256; ++i) b[16 + i % 32] |= static_cast<uint8_t>((from.codes[i] >> 4 & 1) << i / 32);
  put_four_bits(from, b + 48);
}

static void q6_k(const GgmlBlock& from, Bytes b) {
  const Bytes ql = b, qh = b + 128, scales = b + 192;
  for (int i = 0; i < 256; ++i) {
    const int half = i / 128, quarter = i % 128 / 32, e = i % 32;
    ql[64 * half + quarter % 2 * 32 + e] |= static_cast<uint8_t>((from.codes[i] & 15) << (quarter >= 2 ? 4 : 0));
    qh[32 * half + e] |= static_cast<uint8_t>((from.codes[i] >> 4 & 3) << 2 * quarter);
  }
  for (int t = 0; t < 16; ++t) scales[t] = static_cast<uint8_t>(from.multiple[t]);
  put_half(b + 208, from.scale);
}

static void tq2_0(const GgmlBlock& from, Bytes b) {
  put_two_bits(from, b);
  put_half(b + 64, from.scale);
}

struct Writer {
  uint32_t type;
  void (*put)(const GgmlBlock&, Bytes);  // into zeros
};
constexpr std::array kWriters{Writer{41, q1_0}, Writer{42, q2_0}, Writer{2, q4_0},  Writer{3, q4_1},  Writer{6, q5_0},
                              Writer{7, q5_1},  Writer{8, q8_0},  Writer{10, q2_k}, Writer{11, q3_k}, Writer{12, q4_k},
                              Writer{13, q5_k}, Writer{14, q6_k}, Writer{35, tq2_0}};

}  // namespace encoders

void put_together(const GgmlType& type, const GgmlBlock& from, std::byte* to) {
  const auto writer = std::find_if(encoders::kWriters.begin(), encoders::kWriters.end(),
                                   [&](const encoders::Writer& one) { return one.type == type.id; });
  require(writer != encoders::kWriters.end(), "{} has no blocks of codes that we write.", type.name);
  std::fill_n(to, type.block_bytes, std::byte{0});
  writer->put(from, reinterpret_cast<uint8_t*>(to));
}

}  // namespace core
