#include "quant/qat/batches.h"

#include <numeric>

#include "core/random.h"

namespace quant {

std::vector<std::vector<int64_t>> batches_of(int64_t steps, int64_t batch, int64_t windows, uint64_t seed) {
  std::vector<int64_t> order(windows);
  std::iota(order.begin(), order.end(), 0);
  std::vector<std::vector<int64_t>> all(steps);
  int64_t next = windows;
  uint64_t epoch = 0;
  for (auto& chosen : all) {
    for (int64_t i = 0; i < batch; ++i, ++next) {
      if (next == windows) {
        core::Random random(seed, "", "qat order", epoch++);
        for (int64_t n = windows; n > 1; --n) std::swap(order[n - 1], order[random.below(n)]);  // Fisher and Yates
        next = 0;
      }
      chosen.push_back(order[next]);
    }
  }
  return all;
}

}  // namespace quant
