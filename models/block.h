// The decoder block of all families: two residual halves, each with an RMSNorm before it. Families differ in their
// attention and in what comes after it.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/model.h"
#include "models/attention.h"
#include "models/feed_forward.h"

namespace models {

class DecoderBlock : public core::Block {
 public:
  // path: "model.layers.3".
  DecoderBlock(const std::string& path, const core::Shape& shape, std::shared_ptr<Attention> attention,
               std::shared_ptr<FeedForward> mlp);

  at::Tensor attention(const at::Tensor& x, const core::Pass& pass) override;
  at::Tensor mlp(const at::Tensor& h, const core::Pass& pass) override;
  std::vector<core::LinearGroup> groups() override;
  core::Mixture* mixture() override { return mlp_->mixture(); }

 private:
  std::shared_ptr<core::RmsNorm> input_layernorm_;  // [D]
  std::shared_ptr<Attention> self_attn_;
  std::shared_ptr<core::RmsNorm> post_attention_layernorm_;  // [D]
  std::shared_ptr<FeedForward> mlp_;
};

// The halves of block `layer` at a path, "model.layers.3.self_attn" or "model.layers.3.mlp".
using MakeAttention = std::function<std::shared_ptr<Attention>(const std::string& path)>;
using MakeFeedForward = std::function<std::shared_ptr<FeedForward>(const std::string& path, int64_t layer)>;

std::shared_ptr<core::Model> assemble(const core::Shape& shape, MakeAttention attention, MakeFeedForward mlp);

}  // namespace models
