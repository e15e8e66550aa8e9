// Which windows of a text each step of training sees.
#pragma once

#include <cstdint>
#include <vector>

namespace quant {

// Of `steps` steps with `batch` windows each, out of `windows`: every window once before any is seen again, in an order
// that the seed draws anew each time.
std::vector<std::vector<int64_t>> batches_of(int64_t steps, int64_t batch, int64_t windows, uint64_t seed);

}  // namespace quant
