// Decoding token by token against the full pass, for every family and for plans that run blocks several times.
#include "core/context.h"

#include <gtest/gtest.h>

#include "tests/models/support.h"

namespace {

using core::Context;
using core::Plan;

class Decoding : public ::testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradient_;
  std::shared_ptr<core::Model> model_ = load_model(golden_directory(GetParam()));
  at::Tensor ids_ = expected_of(GetParam(), "ids");  // [B, T]

  // Reads a prompt and then token by token; what it says behind each must be what the full pass says there.
  void expect_full_pass() {
    const at::Tensor full = model_->forward(ids_);  // [B, T, V]
    const double bound = 1e-4 * std::max(1.0, full.abs().max().item<double>());
    for (const int64_t prompt : {int64_t{1}, int64_t{5}}) {
      Context context(*model_, ids_.size(1));
      at::Tensor logits = context.read(ids_.narrow(1, 0, prompt));
      for (int64_t t = prompt;; ++t) {
        EXPECT_EQ(context.length(), t);
        EXPECT_EQ(logits.sizes(), at::IntArrayRef({ids_.size(0), full.size(2)}));
        EXPECT_LE(difference(logits, full.select(1, t - 1)), bound) << "behind token " << t - 1;
        if (t == ids_.size(1)) break;
        logits = context.read(ids_.narrow(1, t, 1));
      }
    }
  }
};

INSTANTIATE_TEST_SUITE_P(Golden, Decoding, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST_P(Decoding, TokenByTokenIsTheFullPass) { expect_full_pass(); }

TEST_P(Decoding, PlansKeepTheKeysOfEveryStep) {
  for (const Plan& plan : {Plan{{.block = 0}, {.block = 0, .replica = 1, .kv = 0}, {.block = 1}},
                           Plan{{.block = 0}, {.block = 1}, {.block = 0, .replica = 1}, {.block = 1, .replica = 1}},
                           Plan{{.block = 0, .parallel = 2}, {.block = 1}}}) {
    model_->follow(plan);
    for (core::Block* replica : model_->replicas(0)) replica->mlp_gate().put(0.5);
    expect_full_pass();
  }
}

TEST_P(Decoding, GreedyContinuationsTakeTheLikeliestOfEveryPass) {
  const at::Tensor prompts = ids_.narrow(1, 0, 4);
  Context context(*model_, 10);
  const at::Tensor made = core::continue_greedily(context, prompts, 6);
  ASSERT_EQ(made.sizes(), at::IntArrayRef({ids_.size(0), 6}));
  const at::Tensor all = at::cat({prompts, made}, 1);
  EXPECT_TRUE(at::equal(model_->forward(all).argmax(-1).narrow(1, 3, 6), made));
}

TEST(Context, RefusesMoreThanTheModelHolds) {
  const auto model = load_model(golden_directory("qwen3_tied"));
  const int64_t context = model->shape().context;
  EXPECT_EQ(message_of([&] { Context(*model, context + 1); }),
            "context: " + std::to_string(context + 1) + " tokens are more than the context of the model, which holds " +
                std::to_string(context) + ". Shorten the prompt or ask for fewer.");
}

TEST(Context, RefusesTokensBeyondItsCapacityAndKeepsWhatItHas) {
  const auto model = load_model(golden_directory("qwen3_tied"));
  const at::Tensor ids = expected_of("qwen3_tied", "ids").narrow(0, 0, 1);
  Context context(*model, 4);
  context.read(ids.narrow(1, 0, 3));
  EXPECT_EQ(message_of([&] { context.read(ids.narrow(1, 3, 2)); }),
            "context of 4 tokens is full. Generate fewer tokens or shorten the prompt.");
  EXPECT_EQ(context.length(), 3);
  context.read(ids.narrow(1, 3, 1));
}

}  // namespace
