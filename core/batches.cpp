#include "core/batches.h"

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include <atomic>

namespace core {

namespace {

constexpr int64_t kSmall = 1 << 20;  // hidden values of a batch, e.g. 1,024 tokens of a model of width 1,024
constexpr int64_t kPerThread = 4;    // batches: with fewer, too many threads would be idle while the last ones run

}  // namespace

bool side_by_side(int64_t count, int64_t values) {
  const int64_t threads = at::get_num_threads();
  return threads > 1 && values <= kSmall && count >= kPerThread * threads && !at::in_parallel_region();
}

void for_each_batch(int64_t count, int64_t values, const std::function<void(int64_t)>& work) {
  if (count > 0) work(0);
  if (!side_by_side(count, values)) {
    for (int64_t i = 1; i < count; ++i) work(i);
    return;
  }
  const at::ThreadLocalState caller;
  std::atomic<int64_t> next = 1;  // whoever is free takes the next one; products inside a parallel region are serial
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t, int64_t) {
    const at::ThreadLocalStateGuard guard(caller);
    for (int64_t i = next++; i < count; i = next++) work(i);
  });
}

}  // namespace core
