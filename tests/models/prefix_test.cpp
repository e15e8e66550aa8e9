// Keys and values in front of a text, for every family: what the model says behind them is what it says behind the
// tokens themselves.
#include "core/nn/prefix.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/context.h"
#include "core/io/hf_config.h"
#include "core/io/model_path.h"
#include "models/registry.h"
#include "tests/models/support.h"

namespace {

constexpr int64_t kPrefix = 3;  // tokens

class Prefixed : public ::testing::TestWithParam<std::string> {
 protected:
  // Gives every attention the keys and values of these tokens, [1, P], by hand.
  void put_prefix(core::Model& model, const at::Tensor& tokens) {
    auto tensors = std::make_shared<core::Weights::Added>();
    at::Tensor hidden = model.embed(tokens);
    for (int64_t i = 0; i < model.shape().layers; ++i) {
      core::KeyValues kept;
      hidden = model.block(i).forward(hidden, {.step = i, .kept = &kept});
      const std::string path = core::path_of_block(i) + ".self_attn";
      tensors->emplace(core::Prefix::keys_of(path), kept.k.squeeze(0));
      tensors->emplace(core::Prefix::values_of(path), kept.v.squeeze(0));
    }
    const core::Weights weights =
        core::Weights(core::open_tensors(golden_directory(GetParam())), at::kFloat, at::kCPU).with(tensors);
    for (int64_t i = 0; i < model.shape().layers; ++i) core::load(model.block(i), weights);
  }
  double bound(const at::Tensor& logits) const { return 1e-4 * std::max(1.0, logits.abs().max().item<double>()); }

  at::NoGradGuard no_gradient_;
  std::shared_ptr<core::Model> model_ = load_model(golden_directory(GetParam()));
  at::Tensor ids_ = expected_of(GetParam(), "ids");  // [B, T]
  at::Tensor tokens_ = ids_.slice(0, 0, 1).slice(1, 2, 2 + kPrefix);
  at::Tensor whole_ = at::cat({tokens_.expand({ids_.size(0), kPrefix}), ids_}, 1);
};

INSTANTIATE_TEST_SUITE_P(Golden, Prefixed, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST_P(Prefixed, TextsAreReadAsBehindTheTokensThemselves) {
  const at::Tensor alone = model_->forward(ids_);
  const at::Tensor expected = model_->forward(whole_).slice(1, kPrefix);
  ASSERT_GT(difference(alone, expected), bound(expected)) << "the tokens in front must matter";
  put_prefix(*model_, tokens_);
  EXPECT_LE(difference(model_->forward(ids_), expected), bound(expected));
}

TEST_P(Prefixed, TokenByTokenTheCacheHoldsItOnce) {
  const at::Tensor expected = model_->forward(whole_).slice(1, kPrefix);
  put_prefix(*model_, tokens_);
  core::Context context(*model_, ids_.size(1));
  at::Tensor logits = context.read(ids_.narrow(1, 0, 2));
  for (int64_t t = 2;; ++t) {
    EXPECT_LE(difference(logits, expected.select(1, t - 1)), bound(expected)) << "behind token " << t - 1;
    if (t == ids_.size(1)) break;
    logits = context.read(ids_.narrow(1, t, 1));
  }
}

TEST_P(Prefixed, IsBilledAndLeavesWithTheBlock) {
  const core::Cost before = core::bill(*model_);
  put_prefix(*model_, tokens_);
  core::Cost after = core::bill(*model_);
  int64_t numbers = 0;
  for (const core::State& state : core::named_state(*model_)) {
    if (state.kind == core::Kind::prefix) numbers += state.tensor.numel();
  }
  EXPECT_GT(numbers, 0);
  EXPECT_EQ(after.parameter_bits - before.parameter_bits, 32 * numbers);
  EXPECT_EQ(after.bytes_read - before.bytes_read, 4 * numbers);
  EXPECT_EQ(after.weights, before.weights);
  for (int64_t i = 0; i < model_->shape().layers; ++i) core::unload(model_->block(i));
  for (const core::State& state : core::named_state(*model_)) EXPECT_NE(state.kind, core::Kind::prefix);
}

}  // namespace
