// Batches side by side: each once, the first before the others, the caller's modes in every thread, the same numbers.
#include "core/batches.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <stdexcept>

namespace core {
namespace {

constexpr int64_t kSmall = 1 << 10, kLarge = 1 << 21;  // hidden values of a batch

TEST(Batches, AreSideBySideWhenTheyAreSmallAndMany) {
  const int64_t threads = at::get_num_threads();
  ASSERT_GT(threads, 1) << "set OMP_NUM_THREADS=2";
  EXPECT_TRUE(side_by_side(4 * threads, kSmall));
  EXPECT_FALSE(side_by_side(4 * threads - 1, kSmall));
  EXPECT_FALSE(side_by_side(4 * threads, kLarge));
}

TEST(Batches, EachRunsOnceAndTheFirstIsFinishedBeforeAnother) {
  for (const int64_t values : {kSmall, kLarge}) {
    std::vector<std::atomic<int>> runs(50);
    std::atomic<bool> first_finished = false;
    for_each_batch(50, values, [&](int64_t i) {
      EXPECT_EQ(first_finished.load(), i > 0) << "batch " << i;
      ++runs[i];
      if (i == 0) first_finished = true;
    });
    for (size_t i = 0; i < runs.size(); ++i) EXPECT_EQ(runs[i].load(), 1) << "batch " << i;
  }
}

TEST(Batches, OfNothingRunNothing) {
  for_each_batch(0, kSmall, [](int64_t) { FAIL(); });
}

// Two batches that wait for each other; where only one runs at a time, it gives up after a minute.
TEST(Batches, SmallOnesReallyRunAtTheSameTime) {
  std::mutex mutex;
  std::condition_variable both;
  int arrived = 0;
  for_each_batch(64, kSmall, [&](int64_t i) {
    if (i == 0) return;
    std::unique_lock<std::mutex> lock(mutex);
    if (++arrived == 2) both.notify_all();
    EXPECT_TRUE(both.wait_for(lock, std::chrono::minutes(1), [&] { return arrived >= 2; }));
  });
}

TEST(Batches, ThreadsHaveTheModesOfTheCaller) {
  std::atomic<int> wrong = 0;
  for_each_batch(50, kSmall,
                 [&](int64_t) { wrong += c10::InferenceMode::is_enabled() || !at::GradMode::is_enabled(); });
  const c10::InferenceMode inference;
  for_each_batch(50, kSmall,
                 [&](int64_t) { wrong += !c10::InferenceMode::is_enabled() || at::GradMode::is_enabled(); });
  EXPECT_EQ(wrong.load(), 0);
}

TEST(Batches, GiveTheSameBitsEveryTime) {
  const at::Tensor weight = at::randn({64, 64});
  const auto run = [&] {
    std::vector<at::Tensor> out(40);
    for_each_batch(40, kSmall, [&](int64_t i) { out[i] = at::matmul(weight + i, weight); });
    return at::stack(out);
  };
  const at::Tensor once = run();
  for (int repetition = 0; repetition < 5; ++repetition) EXPECT_TRUE(at::equal(run(), once));
}

TEST(Batches, AnErrorReachesTheCaller) {
  const auto run = [](int64_t values) {
    for_each_batch(50, values, [](int64_t i) {
      if (i == 30) throw std::runtime_error("batch 30");
    });
  };
  EXPECT_THROW(run(kSmall), std::runtime_error);
  EXPECT_THROW(run(kLarge), std::runtime_error);
}

}  // namespace
}  // namespace core
