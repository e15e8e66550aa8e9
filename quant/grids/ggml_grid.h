// The element types of GGUF files as grids of ours, bit for bit:
//   Q4_0, Q5_0, Q8_0            symmetry: signed_full, groups of 32
//   Q2_0, TQ2_0                 signed_full with the opposite sign of code and scale, groups of 64 and 256
//   Q1_0                        midrise with twice the scale, groups of 128
//   Q4_1, Q5_1                  zero_point: min, groups of 32
//   Q2_K, Q4_K, Q5_K            zero_point: min, two-level scales and minima with scale_zero, groups of 16, 32 and 32
//   Q3_K, Q6_K                  signed_full, two-level scales with scale_zero, groups of 16
// and presets: what `preset: q2_0` in a section `weight` stands for.
#pragma once

#include "core/config/node.h"
#include "core/io/ggml_types.h"
#include "quant/grids/weight_config.h"

namespace quant {

// block: weights of a block of the type.
WeightConfig weight_config_of(const core::GgmlGrid& grid, int64_t block);

// In every section `weight` of a document, `preset` gives way to the keys that it stands for. Error: a key beside it
// that has another value, a preset that there is not.
void expand_presets(core::Node& document);

}  // namespace quant
