// The other way of core/io/ggml_types.h: codes, scales and minima become the blocks of a GGUF file.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/io/ggml_types.h"

namespace core {

// IEEE 754 binary16, to the nearest, ties to even; beyond its range infinite.
uint16_t half_of_float(float value);

// Writes one block of a type whose blocks can be taken apart; take_apart then gives `from` again, scale and minimum
// rounded to float16.
void put_together(const GgmlType& type, const GgmlBlock& from, std::byte* to);

}  // namespace core
