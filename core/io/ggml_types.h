// The element types of GGUF files: floats, and blocks of codes with their scales, each decoded to float32 exactly as
// ggml's `dequantize_row_*` does (https://github.com/ggml-org/llama.cpp, ggml/src/ggml-quants.c and ggml-common.h).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// How the blocks of a type are made of codes: those of a group of weights have the levels s (step k - zero), or s k + m
// where a minimum is stored.
struct GgmlGrid {
  int64_t bits;          // of a code
  int64_t group;         // weights that share s and m
  int64_t zero;          // read without a minimum
  bool has_minimum;      // m
  int64_t scale_bits;    // two-level: s = scale * multiple, m = -minimum * minimum multiple; 0: s = scale, m = minimum
  bool signed_multiple;  // of scales: from -2^(scale_bits - 1) on; otherwise from 0
  int64_t step = 1;

  bool is_two_level() const { return scale_bits > 0; }
};

// A block taken apart; what its grid does not have is not written.
struct GgmlBlock {
  std::array<uint8_t, 256> codes;
  float scale, minimum;
  std::array<int8_t, 16> multiple;  // of each group
  std::array<uint8_t, 16> minimum_multiple;
};

// One type. A row of a tensor is a whole number of blocks.
struct GgmlType {
  uint32_t id;         // in the file
  const char* name;    // "Q4_1"
  int64_t block;       // weights of a block
  size_t block_bytes;  // its bytes
  // Decodes `blocks` blocks. Null: a type whose size we know but that we do not read.
  void (*decode)(const std::byte* from, int64_t blocks, float* to);
  GgmlGrid grid = {};                                                   // where blocks can be taken apart
  void (*take_apart)(const std::byte* block, GgmlBlock& to) = nullptr;  // null: they cannot

  double bits() const { return 8.0 * static_cast<double>(block_bytes) / static_cast<double>(block); }  // per weight
};

// Null: no such type.
const GgmlType* find_ggml_type(uint32_t id);

const GgmlType* find_ggml_type(std::string_view name);  // "Q4_1", in letters of any case

// Those whose blocks are made of codes, with fewer bits per weight first.
std::vector<const GgmlType*> coded_ggml_types();

// "F32, F16, BF16, ...": those that we read.
std::string readable_ggml_types();

float float_of_half(uint16_t bits);  // IEEE 754 binary16, subnormals included

}  // namespace core
