// Loops that threads share: every index once, whatever the threads are doing.
#include "core/team.h"

#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

namespace core {
namespace {

void expect_each_once(int64_t count, int64_t grain) {
  std::vector<std::atomic<int>> times(count);
  share_ranges(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++times[i];
  });
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(times[i], 1) << i << " of " << count << ", grain " << grain;
}

TEST(Team, EveryIndexIsTakenOnce) {
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 5000}) expect_each_once(count, grain);
  }
}

TEST(Team, LoopAfterLoop) {
  for (int i = 0; i < 20000; ++i) expect_each_once(16, 1);
}

TEST(Team, ThreadsThatSleepAreWoken) {
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (int k = 0; k < 10; ++k) expect_each_once(100, 1);
  }
}

TEST(Team, AnotherNumberOfThreads) {
  const int before = at::get_num_threads();
  for (const int threads : {1, 3, 2, 4}) {
    at::set_num_threads(threads);
    for (int i = 0; i < 100; ++i) expect_each_once(50, 1);
  }
  at::set_num_threads(before);
}

TEST(Team, CallersDoNotWaitForEachOther) {
  std::vector<std::thread> callers;
  for (int c = 0; c < 3; ++c)
    callers.emplace_back([] {
      for (int i = 0; i < 500; ++i) expect_each_once(40, 1);
    });
  for (std::thread& caller : callers) caller.join();
  at::parallel_for(0, 4, 1, [](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) expect_each_once(40, 1);
  });
}

}  // namespace
}  // namespace core
