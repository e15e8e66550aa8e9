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

// With three threads, more than the machine may have.
class Team : public testing::Test {
 protected:
  void SetUp() override { at::set_num_threads(3); }
  void TearDown() override { at::set_num_threads(before_); }

 private:
  int before_ = at::get_num_threads();
};

void expect_each_once(int64_t count, int64_t grain) {
  std::vector<std::atomic<int>> times(count);
  share_ranges(count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) ++times[i];
  });
  for (int64_t i = 0; i < count; ++i) ASSERT_EQ(times[i], 1) << i << " of " << count << ", grain " << grain;
}

TEST_F(Team, EveryIndexIsTakenOnce) {
  for (const int64_t count : {0, 1, 2, 7, 64, 1000}) {
    for (const int64_t grain : {1, 3, 64, 5000}) expect_each_once(count, grain);
  }
}

// Each thread waits in its range until another one has come, or the time is over.
TEST_F(Team, OtherThreadsTakePart) {
  std::atomic<int> present{0};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  share_ranges(3, 1, [&](int64_t, int64_t) {
    ++present;
    while (present < 2 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  });
  EXPECT_EQ(present, 3);
  EXPECT_LT(std::chrono::steady_clock::now(), end) << "the caller was left alone";
}

TEST_F(Team, LoopAfterLoop) {
  for (int i = 0; i < 20000; ++i) expect_each_once(16, 1);
}

TEST_F(Team, ThreadsThatSleepAreWoken) {
  for (int i = 0; i < 20; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    for (int k = 0; k < 10; ++k) expect_each_once(100, 1);
  }
}

TEST_F(Team, AnotherNumberOfThreads) {
  for (const int threads : {1, 3, 2, 4}) {
    at::set_num_threads(threads);
    for (int i = 0; i < 100; ++i) expect_each_once(50, 1);
  }
}

TEST_F(Team, CallersDoNotWaitForEachOther) {
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
