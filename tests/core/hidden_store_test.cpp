// Hidden states under a limit: the same bits wherever a batch lies, one limit for all stores, nothing leaks.
#include "core/hidden_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/batches.h"
#include "tests/io/support.h"

namespace core {
namespace {

constexpr int64_t kBytes = 2 * 5 * 16 * 4;  // of one batch

at::Tensor batch(int64_t i, at::ScalarType dtype = at::kFloat) {
  return (at::arange(2 * 5 * 16, at::kFloat).reshape({2, 5, 16}) + 1000 * i).to(dtype);
}

class HiddenStoreTest : public ::testing::Test {
 protected:
  void TearDown() override {
    EXPECT_EQ(hidden_bytes_in_memory(), before_) << "memory is still counted";
    limit_hidden_states(std::numeric_limits<int64_t>::max(), "");
  }
  // Room for so many batches beyond what is used already.
  void limit(int64_t batches) { limit_hidden_states(before_ + batches * kBytes, scratch_.path()); }

  const int64_t before_ = hidden_bytes_in_memory();
  const Scratch scratch_;
};

TEST_F(HiddenStoreTest, WithoutALimitKeepsTheTensorItself) {
  HiddenStore store(2);
  const at::Tensor x = batch(0);
  store.put(0, x);
  EXPECT_TRUE(store.get(0).is_same(x));
  EXPECT_FALSE(store.get(1).defined());
  EXPECT_EQ(store.spilled(), 0);
}

TEST_F(HiddenStoreTest, SpillsWhatIsAboveTheLimitAndGivesTheSameBits) {
  for (const int64_t room : {0, 1, 3, 5}) {
    limit(room);
    HiddenStore store(5);
    for (int64_t i = 0; i < 5; ++i) store.put(i, batch(i));
    EXPECT_EQ(store.spilled(), 5 - room);
    for (int round = 0; round < 2; ++round) {
      for (int64_t i = 0; i < 5; ++i) {
        ASSERT_TRUE(at::equal(store.get(i), batch(i + 7 * round))) << "room " << room << ", batch " << i;
        store.put(i, batch(i + 7 * (round + 1)));
      }
    }
    EXPECT_LE(hidden_bytes_in_memory() - before_, room * kBytes);
  }
  EXPECT_TRUE(scratch_.listing().empty()) << "the file has a name";
}

TEST_F(HiddenStoreTest, KeepsDtypeShapeAndAlignmentOfASpilledBatch) {
  limit(0);
  HiddenStore store(3);
  store.put(0, batch(1, at::kBFloat16));
  store.put(1, batch(2).narrow(0, 0, 1));
  store.put(2, batch(3).transpose(0, 1));
  EXPECT_TRUE(at::equal(store.get(0), batch(1, at::kBFloat16)));
  EXPECT_TRUE(at::equal(store.get(1), batch(2).narrow(0, 0, 1)));
  EXPECT_TRUE(at::equal(store.get(2), batch(3).transpose(0, 1)));
  for (int64_t i = 0; i < 3; ++i) EXPECT_EQ(reinterpret_cast<uintptr_t>(store.get(i).const_data_ptr()) % 64, 0u);
  store.put(1, batch(4));  // more than its place has room for
  EXPECT_TRUE(at::equal(store.get(1), batch(4)));
}

TEST_F(HiddenStoreTest, AllStoresShareOneLimit) {
  limit(3);
  HiddenStore one(2);
  for (int64_t i = 0; i < 2; ++i) one.put(i, batch(i));
  {
    HiddenStore two(2);
    for (int64_t i = 0; i < 2; ++i) two.put(i, batch(i));
    EXPECT_EQ(one.spilled(), 0);
    EXPECT_EQ(two.spilled(), 1);
    one = std::move(two);  // gives its share back
  }
  EXPECT_EQ(hidden_bytes_in_memory() - before_, kBytes);
  one.put(0, {});
  EXPECT_FALSE(one.get(0).defined());
  EXPECT_EQ(hidden_bytes_in_memory(), before_);
}

TEST_F(HiddenStoreTest, TheFirstBatchesOfAStoreAreItsOwn) {
  limit(2);
  HiddenStore store(3);
  for (int64_t i = 0; i < 3; ++i) store.put(i, batch(i));
  {
    HiddenStore first = store.first(2);
    EXPECT_EQ(first.batches(), 2);
    first.put(1, batch(7));
  }
  EXPECT_EQ(store.batches(), 3);
  EXPECT_TRUE(at::equal(store.get(1), batch(7)));
  EXPECT_TRUE(at::equal(store.get(2), batch(2))) << "which was spilled";
}

TEST_F(HiddenStoreTest, BatchesSideBySideDoNotDisturbEachOther) {
  constexpr int64_t kBatches = 100;
  limit(kBatches / 2);
  HiddenStore store(kBatches);
  for (int64_t i = 0; i < kBatches; ++i) store.put(i, batch(i));
  for (int64_t round = 0; round < 3; ++round)
    for_each_batch(kBatches, 160, [&](int64_t i) { store.put(i, store.get(i) + 1); });
  for (int64_t i = 0; i < kBatches; ++i) ASSERT_TRUE(at::equal(store.get(i), batch(i) + 3)) << i;
  EXPECT_GE(store.spilled(), kBatches / 2);
}

}  // namespace
}  // namespace core
