// What the machine is said to do while it is measured.
#include "core/bandwidth.h"

#include <gtest/gtest.h>

#include <chrono>
#include <ctime>
#include <thread>

#include "core/cpu_load.h"
#include "core/machine.h"

namespace core {
namespace {

TEST(Bandwidth, IsBetweenADiskAndTheFastestMemory) {
  const double rate = read_bandwidth(64 << 20, 3);
  EXPECT_GT(rate, 0.2e9);
  EXPECT_LT(rate, 1e13);
}

TEST(Bandwidth, TheBufferIsLargerThanTheLastCache) {
  EXPECT_GE(last_level_cache_bytes(), 0);
  EXPECT_GE(uncached_bytes(), 256 << 20);
  EXPECT_LE(uncached_bytes(), std::max<int64_t>(256 << 20, memory_bytes() / 8));
}

TEST(CpuLoad, OwnWorkIsNotThatOfOthers) {
  const CpuLoad load;
  const std::clock_t began = std::clock();
  if (!load.others() && !load_average()) GTEST_SKIP() << "the system does not tell";
  constexpr double kSeconds = 0.3;
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kSeconds);
  volatile int64_t spins = 0;
  while (std::chrono::steady_clock::now() < end) spins = spins + 1;
  ASSERT_TRUE(load.others().has_value());
  EXPECT_GE(*load.others(), 0.0);
  const double own = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC / kSeconds;
  EXPECT_GT(own, 0.1);
  EXPECT_LE(*load.others(), std::thread::hardware_concurrency() - own + 0.2) << "there are no more cores";
}

}  // namespace
}  // namespace core
