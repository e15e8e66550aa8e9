// Rounding that gradients pass as if it were not there (Bengio, Léonard and Courville 2013, arXiv 1308.3432).
#pragma once

#include "quant/grids/weight_format.h"

namespace quant {

// The values of `rounded`, the gradient of `exact`; shapes are equal.
at::Tensor straight_through(const at::Tensor& exact, const at::Tensor& rounded);

// Float parameters as they will be stored (scale_dtype), with the gradients of what they are; codes stay. Error: a
// scale that its dtype cannot hold.
Parameters as_stored(const WeightFormat& format, const Parameters& parameters);

}  // namespace quant
