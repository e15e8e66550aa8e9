// Slots and linears: what may be put where, what a linear says about itself.
#include "core/nn/slot.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace {

using core::DenseLinear;
using core::Role;
using core::Slot;

std::shared_ptr<DenseLinear> dense(int64_t outputs, int64_t inputs, bool bias = false) {
  return std::make_shared<DenseLinear>(at::randn({outputs, inputs}), bias ? at::randn({outputs}) : at::Tensor(), 16);
}

TEST(Slot, RunsTheLinearThatIsInIt) {
  Slot slot("p.q_proj", Role::q_proj, 3, 2, true);
  const auto linear = dense(3, 2, true);
  slot.put(linear);
  const at::Tensor x = at::randn({5, 2});
  EXPECT_TRUE(at::allclose(slot.forward(x), x.matmul(linear->weight().t()) + linear->bias(), 1e-5, 1e-6));
}

TEST(Slot, SwappingLeavesNoOldChildRegistered) {
  Slot slot("p.q_proj", Role::q_proj, 3, 2, false);
  slot.put(dense(3, 2));
  const auto second = dense(3, 2);
  slot.put(second);
  ASSERT_EQ(slot.children().size(), 1u);
  EXPECT_EQ(slot.children()[0].get(), second.get());
  EXPECT_EQ(slot.pointer(), second);
  slot.unload();
  EXPECT_TRUE(slot.children().empty());
  EXPECT_FALSE(slot.filled());
  EXPECT_TRUE(slot.state().empty());
}

TEST(Slot, RefusesALinearOfAnotherSize) {
  Slot slot("p.q_proj", Role::q_proj, 3, 2, false);
  EXPECT_THROW(slot.put(dense(2, 3)), c10::Error);
  EXPECT_THROW(slot.put(nullptr), c10::Error);
  EXPECT_FALSE(slot.filled());
}

TEST(Slot, UsedWhileEmptyNamesItself) {
  Slot slot("p.q_proj", Role::q_proj, 3, 2, false);
  try {
    slot.forward(at::ones({1, 2}));
    FAIL() << "no error";
  } catch (const c10::Error& error) {
    EXPECT_THAT(error.what_without_backtrace(), testing::HasSubstr("p.q_proj: used before it was loaded"));
  }
}

TEST(Slot, NamesItsStateByItsPath) {
  Slot slot("model.layers.0.mlp.up_proj", Role::up_proj, 3, 2, true);
  slot.put(dense(3, 2, true));
  const std::vector<core::State> state = slot.state();
  ASSERT_EQ(state.size(), 2u);
  EXPECT_EQ(state[0].name, "model.layers.0.mlp.up_proj.weight");
  EXPECT_EQ(state[0].kind, core::Kind::weight);
  EXPECT_EQ(state[1].name, "model.layers.0.mlp.up_proj.bias");
  EXPECT_EQ(state[1].kind, core::Kind::bias);
  EXPECT_FALSE(state[0].tensor.requires_grad());
}

TEST(Slot, RolesAndKindsHaveTheirNames) {
  EXPECT_STREQ(core::name_of(Role::q_proj), "q_proj");
  EXPECT_STREQ(core::name_of(Role::lm_head), "lm_head");
  EXPECT_STREQ(core::name_of(core::Kind::weight), "weight");
  EXPECT_STREQ(core::name_of(core::Kind::zero_point), "zero_point");
}

TEST(Linear, DenseCostsItsStoredBits) {
  const core::Cost cost = dense(3, 2, true)->cost();
  EXPECT_EQ(cost.weights, 6);
  EXPECT_EQ(cost.dense_bits, 9 * 16);
  EXPECT_EQ(cost.macs, 6);
  EXPECT_EQ(cost.bytes_read, 18);
}

TEST(Linear, RecordingShowsEveryInputAndChangesNothing) {
  const auto inner = dense(3, 2, true);
  std::vector<at::Tensor> seen;
  core::RecordingLinear recording(inner, [&](const at::Tensor& x) { seen.push_back(x); });
  const at::Tensor x = at::randn({4, 2});
  EXPECT_TRUE(at::equal(recording.forward(x), inner->forward(x)));
  ASSERT_EQ(seen.size(), 1u);
  EXPECT_TRUE(seen[0].is_same(x));
  EXPECT_EQ(recording.cost().dense_bits, inner->cost().dense_bits);
}

}  // namespace
