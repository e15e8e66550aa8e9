// Codes of some columns of a weight under given parameters, whatever the format's order: what methods call that choose
// codes from left to right or in turn.
#pragma once

#include <functional>

#include "quant/grids/weight_format.h"

namespace quant {

// w: [O, n], columns first … first + n; first and n are multiples of column_block().
using EncodeColumns = std::function<EncodedColumns(const at::Tensor& w, int64_t first)>;

// For a weight [O, I]. The format and the parameters must outlive what is returned.
EncodeColumns encoder_of(const WeightFormat& format, const Parameters& parameters, int64_t O, int64_t I);

// Columns whose codes the format chooses together.
int64_t column_block(const WeightFormat& format);

}  // namespace quant
