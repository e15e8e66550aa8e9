#include "core/bandwidth.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>

#include "core/machine.h"
#include "core/nn/fused.h"

#ifdef __APPLE__
#include <sys/sysctl.h>
#endif

namespace core {

int64_t last_level_cache_bytes() {
#ifdef __APPLE__
  int64_t value = 0;
  size_t size = sizeof value;
  return sysctlbyname("hw.perflevel0.l2cachesize", &value, &size, nullptr, 0) == 0 ? value : 0;
#else
  int64_t largest = 0;
  for (const int level : {_SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE, _SC_LEVEL4_CACHE_SIZE})
    largest = std::max<int64_t>(largest, sysconf(level));
  return largest;
#endif
}

int64_t uncached_bytes() {
  constexpr int64_t kLeast = 256 << 20;
  return std::max(kLeast, std::min(4 * last_level_cache_bytes(), memory_bytes() / 8));
}

namespace {

// Sums that do not wait for each other: the loop is bound by memory, not by additions.
REFRAIN_SIMD int64_t sum_of(const int64_t* values, int64_t count) {
  int64_t sums[64] = {};
  int64_t i = 0;
  for (; i + 64 <= count; i += 64) {
#pragma omp simd
    for (int64_t lane = 0; lane < 64; ++lane) sums[lane] += values[i + lane];
  }
  int64_t total = 0;
  for (const int64_t sum : sums) total += sum;
  for (; i < count; ++i) total += values[i];
  return total;
}

}  // namespace

double read_bandwidth(int64_t bytes, int passes) {
  using Clock = std::chrono::steady_clock;
  const int64_t count = bytes / static_cast<int64_t>(sizeof(int64_t)), threads = at::get_num_threads();
  const int64_t grain = (count + threads - 1) / threads;
  const at::Tensor buffer = at::empty({count}, at::kLong);
  auto* data = buffer.mutable_data_ptr<int64_t>();
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, 1); });
  double best = 0;
  for (int pass = 0; pass < passes; ++pass) {
    std::atomic<int64_t> sum = 0;
    const auto start = Clock::now();
    at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) { sum += sum_of(data + begin, end - begin); });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    TORCH_CHECK(sum == count, "the sum of ", count, " ones is ", sum.load());
    best = std::max(best, static_cast<double>(count * sizeof(int64_t)) / seconds);
  }
  return best;
}

}  // namespace core
