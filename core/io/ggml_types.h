// The element types of GGUF files: floats, and blocks of codes with their scales, each decoded to float32 exactly as
// ggml's `dequantize_row_*` does (https://github.com/ggml-org/llama.cpp, ggml/src/ggml-quants.c and ggml-common.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace core {

// One type. A row of a tensor is a whole number of blocks.
struct GgmlType {
  uint32_t id;         // in the file
  const char* name;    // "Q4_1"
  int64_t block;       // weights of a block
  size_t block_bytes;  // its bytes
  // Decodes `blocks` blocks. Null: a type whose size we know but that we do not read.
  void (*decode)(const std::byte* from, int64_t blocks, float* to);

  double bits() const { return 8.0 * static_cast<double>(block_bytes) / static_cast<double>(block); }  // per weight
};

// Null: no such type.
const GgmlType* find_ggml_type(uint32_t id);

// "F32, F16, BF16, ...": those that we read.
std::string readable_ggml_types();

float float_of_half(uint16_t bits);  // IEEE 754 binary16, subnormals included

}  // namespace core
