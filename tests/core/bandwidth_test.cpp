// What the machine is said to do while it is measured.
#include "core/bandwidth.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "core/cpu_load.h"
#include "core/machine.h"

namespace core {
namespace {

TEST(Bandwidth, IsANumberOfBytesPerSecond) {
  const double rate = read_bandwidth(1 << 20, 2);
  EXPECT_GT(rate, 0);
  EXPECT_TRUE(std::isfinite(rate));
}

TEST(Bandwidth, TheBufferIsLargerThanTheLastCache) {
  EXPECT_GE(last_level_cache_bytes(), 0);
  EXPECT_GE(uncached_bytes(), 256 << 20);
  EXPECT_LE(uncached_bytes(), std::max<int64_t>(256 << 20, memory_bytes() / 8));
}

TEST(CpuLoad, IsANumberOfCoresWhereTheSystemTells) {
  const CpuLoad load;
  const std::optional<double> others = load.others();
  EXPECT_EQ(others.has_value(), std::filesystem::exists("/proc/stat"));
  EXPECT_GE(others.value_or(0), 0.0);
  EXPECT_GE(load_average(), 0.0);
}

}  // namespace
}  // namespace core
