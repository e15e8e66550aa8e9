// What slots and blocks say of their place: nobody reads it from paths.
#include "core/mixture.h"

#include <gtest/gtest.h>

#include "tests/support/toy_mixture.h"

namespace core {
namespace {

TEST(SlotPlace, IsThatOfTheBlockTheExpertAndTheHalf) {
  const auto model = toy::mixture_skeleton();
  const Slot& expert = model->slot("model.layers.2.moe.experts.1.up_proj");
  EXPECT_EQ(expert.block(), 2);
  EXPECT_EQ(expert.expert(), 1);
  EXPECT_FALSE(expert.is_shared());
  EXPECT_EQ(expert.half(), Half::feed_forward);
  EXPECT_EQ(model->expert_path(expert), "model.layers.2.moe.experts.1");
  EXPECT_EQ(path_in(expert, 0), "model.layers.0.moe.experts.1.up_proj");
  const Slot& shared = model->slot("model.layers.0.moe.common.up_proj");
  EXPECT_EQ(shared.expert(), -1);
  EXPECT_TRUE(shared.is_shared());
  EXPECT_EQ(model->expert_path(shared), "");
  const Slot& dense = model->slot("model.layers.1.mlp.up_proj");
  EXPECT_EQ(dense.block(), 1);
  EXPECT_EQ(dense.expert(), -1);
  EXPECT_FALSE(dense.is_shared());
  EXPECT_EQ(model->head().block(), -1);
  EXPECT_EQ(model->head().half(), Half::none);
  EXPECT_THROW(model->slot("model.layers.1.mlp.gate_proj"), c10::Error);
}

TEST(SlotPlace, OfReplicasIsThatOfTheirBlock) {
  const auto model = toy::mixture_skeleton();
  model->follow({{.block = 0}, {.block = 0, .replica = 1}, {.block = 1}, {.block = 2}});
  const std::vector<Slot*> block = model->block(0).slots(), replica = model->block(0, 1).slots();
  ASSERT_EQ(block.size(), replica.size());
  for (size_t i = 0; i < block.size(); ++i) {
    EXPECT_NE(replica[i]->path(), block[i]->path());
    EXPECT_EQ(replica[i]->block(), 0);
    EXPECT_EQ(replica[i]->expert(), block[i]->expert());
    EXPECT_EQ(replica[i]->is_shared(), block[i]->is_shared());
  }
}

TEST(SlotPlace, HalvesFollowFromRoles) {
  static_assert(half_of(Role::kv_b_proj) == Half::attention && half_of(Role::o_proj) == Half::attention);
  static_assert(half_of(Role::router) == Half::feed_forward && half_of(Role::down_proj) == Half::feed_forward);
  static_assert(half_of(Role::embed_tokens) == Half::none);
}

TEST(Mixture, OfABlockClassOfItsOwnIsSeen) {
  const auto model = toy::mixture_skeleton();
  EXPECT_EQ(model->block(1).mixture(), nullptr);
  ASSERT_NE(model->block(2).mixture(), nullptr);
  EXPECT_EQ(model->block(2).mixture()->experts(), toy::kExperts);
}

TEST(Mixture, ABlockWithExpertsThatDoesNotSaySoIsRefused) {
  try {
    toy::mixture_skeleton(/*admits=*/false);
    FAIL() << "it was built";
  } catch (const c10::Error& error) {
    EXPECT_NE(std::string(error.what())
                  .find("model.layers.0.moe.experts.0.up_proj: its block has experts, but says "
                        "nothing of a mixture. Override Block::mixture()."),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace core
