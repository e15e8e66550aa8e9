// The block that llama, qwen2 and qwen3 share: two residual halves, each with an RMSNorm before it. The families differ
// in their attention only.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model.h"
#include "models/qwen/mlp.h"

namespace models {

// The four linears of grouped-query attention; a family writes down what happens between them.
class Attention : public torch::nn::Module {
 public:
  // path: "model.layers.3.self_attn".
  Attention(const std::string& path, const core::Shape& shape, bool qkv_bias, bool o_bias);

  virtual at::Tensor forward(const at::Tensor& x, const core::Pass& pass) = 0;  // [B, T, D] -> [B, T, D]

  std::shared_ptr<core::Slot> q_proj;  // [H · C, D]
  std::shared_ptr<core::Slot> k_proj;  // [K · C, D]
  std::shared_ptr<core::Slot> v_proj;  // [K · C, D]
  std::shared_ptr<core::Slot> o_proj;  // [D, H · C]
};

class DecoderBlock : public core::Block {
 public:
  // path: "model.layers.3".
  DecoderBlock(const std::string& path, const core::Shape& shape, std::shared_ptr<Attention> attention,
               std::shared_ptr<Mlp> mlp);

  at::Tensor attention(const at::Tensor& x, const core::Pass& pass) override;
  at::Tensor mlp(const at::Tensor& h) override;
  std::vector<core::LinearGroup> groups() override;

 private:
  core::Producer value_heads() const;

  int64_t heads_per_kv_, head_width_;
  std::shared_ptr<core::RmsNorm> input_layernorm_;  // [D]
  std::shared_ptr<Attention> self_attn_;
  std::shared_ptr<core::RmsNorm> post_attention_layernorm_;  // [D]
  std::shared_ptr<Mlp> mlp_;
};

}  // namespace models
