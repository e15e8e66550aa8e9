// Every family and variant against what transformers computes in float32 (tools/make_golden_models.py): the rotary
// frequencies within two float32 steps, the hidden state after every block, the logits; and decoding with a
// cache against the full pass.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <regex>
#include <set>

#include "core/io/files.h"
#include "core/io/hf_config.h"
#include "core/nn/rotary.h"
#include "models/registry.h"
#include "tests/models/support.h"

namespace {

class Golden : public testing::TestWithParam<std::string> {
 protected:
  at::Tensor expected(const std::string& name) const { return expected_of(GetParam(), name); }
  at::Tensor ids() const { return expected("ids"); }

  at::NoGradGuard no_gradient_;
  std::shared_ptr<core::Model> model_ = load_model(golden_directory(GetParam()));
};

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST(GoldenModels, CoverEveryFamily) {
  std::set<std::string> covered;
  for (const std::string& name : golden_names()) covered.insert(family_of(name));
  for (const std::string& family : models::families()) {
    EXPECT_THAT(covered, testing::Contains(family))
        << family << " has no golden files. Add a variant to tools/make_golden_models.py and run it.";
  }
}

// A variant is a line `    "name": (` of the script.
TEST(GoldenModels, AreThoseThatTheScriptMakes) {
  const std::string script = core::read_file(std::string(REFRAIN_SOURCE_DIR) + "/tools/make_golden_models.py");
  const std::regex variant("\\n    \"(\\w+)\": \\(");
  std::vector<std::string> made;
  for (std::sregex_iterator it(script.begin(), script.end(), variant), end; it != end; ++it) made.push_back((*it)[1]);
  EXPECT_THAT(golden_names(), testing::UnorderedElementsAreArray(made));
}

TEST_P(Golden, RotaryFrequenciesAreTransformers) {
  const core::JsonObject config = core::read_hf_config(golden_directory(GetParam()));
  const int64_t width =
      config.integer("qk_rope_head_dim", model_->shape().head_width);  // latent attention rotates a part
  const core::Rotary rotary = core::Rotary::from_config(config, width);
  EXPECT_LE(difference(rotary.inverse_frequency() / expected("inverse_frequency"), at::ones({1})), 2 * 0x1p-23);
  EXPECT_FLOAT_EQ(rotary.attention_scale(), expected("attention_scale").item<float>());
}

TEST_P(Golden, HiddenStatesOfEveryBlockAreTransformers) {
  at::Tensor hidden = model_->embed(ids());
  for (int64_t i = 0; i < model_->shape().layers; ++i) {
    hidden = model_->block(i).forward(hidden, core::Pass{});
    EXPECT_LE(difference(hidden, expected("block." + std::to_string(i))), 1e-4) << "block " << i;
  }
}

TEST_P(Golden, LogitsAreTransformers) { EXPECT_LE(difference(model_->forward(ids()), expected("logits")), 1e-4); }

TEST_P(Golden, SlowDefinitionsGiveTheSameLogits) {
  // With a gradient wanted, norm, rotation and SwiGLU run as tensor operations instead of fused loops.
  at::AutoGradMode gradient(true);
  for (const core::State& state : core::named_state(*model_)) {
    if (state.kind == core::Kind::norm) state.tensor.set_requires_grad(true);
  }
  const at::Tensor logits = model_->forward(ids());
  ASSERT_TRUE(logits.requires_grad());
  EXPECT_LE(difference(logits.detach(), expected("logits")), 1e-4);
}

// Rounding differs between a product of one row and a product of many: 1e-5 of the largest logit.
double tolerance(const at::Tensor& logits) { return 1e-5 * std::max(1.0, logits.abs().max().item<double>()); }

// Feeds the tokens in pieces of the given lengths through a cache.
at::Tensor in_pieces(core::Model& model, const at::Tensor& ids, const std::vector<int64_t>& lengths) {
  core::KvCache cache(static_cast<int64_t>(model.plan().size()), ids.size(1));
  std::vector<at::Tensor> logits;
  int64_t start = 0;
  for (int64_t length : lengths) {
    logits.push_back(model.forward(ids.narrow(1, start, length), &cache));
    start += length;
  }
  EXPECT_EQ(start, ids.size(1));
  return at::cat(logits, 1);
}

TEST_P(Golden, DecodingTokenByTokenEqualsTheFullPass) {
  const at::Tensor full = model_->forward(ids());
  const std::vector<int64_t> ones(ids().size(1), 1);
  EXPECT_LE(difference(in_pieces(*model_, ids(), ones), full), tolerance(full));
}

TEST_P(Golden, DecodingInUnevenPiecesEqualsTheFullPass) {
  const at::Tensor full = model_->forward(ids());
  EXPECT_LE(difference(in_pieces(*model_, ids(), {5, 1, 7, 2, 1}), full), tolerance(full));
}

TEST_P(Golden, AFullCacheIsRefused) {
  core::KvCache cache(static_cast<int64_t>(model_->plan().size()), 8);
  model_->forward(ids().narrow(1, 0, 8), &cache);
  EXPECT_EQ(message_of([&] { model_->forward(ids().narrow(1, 8, 1), &cache); }),
            "context of 8 tokens is full. Generate fewer tokens or shorten the prompt.");
}

TEST_P(Golden, TwoPassesGiveTheSameBits) {
  const at::Tensor first = model_->forward(ids());
  EXPECT_TRUE(at::equal(model_->forward(ids()), first));
}

}  // namespace
