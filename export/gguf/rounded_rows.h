// A weight as the rows of a GGUF type, rounded to it where the type does not hold it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <vector>

#include "core/io/ggml_types.h"

namespace exports {

struct RoundedRows {
  std::vector<std::byte> bytes;
  double error;  // Σ (ŵ − w)²
};

// w: [O, I] float32. type: F32, F16, BF16, or one whose blocks are made of codes, to whose grid w is rounded (nearest,
// range mse); Q8_0 with the scale max|w| / 127, as ggml has it.
RoundedRows rows_of(const at::Tensor& w, const core::GgmlType& type);

// The smallest of Q8_0, BF16, F16 and F32 that holds all of these weights exactly.
const core::GgmlType* exact_float_type(const std::vector<at::Tensor>& weights);

}  // namespace exports
