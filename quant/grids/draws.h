// Random matrices for one linear, keyed by seed, module, purpose and step (core/random.h): the same on every machine,
// and for a linear that is read back from a checkpoint.
#pragma once

#include "quant/grids/weight_format.h"

namespace quant {

// Uniform in [0, 1), multiples of 2^-24: what decides whether a weight is rounded up. [O, I] float32.
at::Tensor uniform_draw(const Place& place, std::string_view purpose, uint64_t step, int64_t rows, int64_t columns);

// Of mean 0 and variance 1 (Box and Muller 1958). [O, I] float32.
at::Tensor normal_draw(const Place& place, std::string_view purpose, uint64_t step, int64_t rows, int64_t columns);

}  // namespace quant
