#include "models/block.h"

#include <ATen/ATen.h>

namespace models {

using core::LinearGroup;
using core::Pass;
using core::RmsNorm;
using core::Role;
using core::Shape;
using core::Slot;

DecoderBlock::DecoderBlock(const std::string& path, const Shape& shape, std::shared_ptr<Attention> attention,
                           std::shared_ptr<FeedForward> mlp)
    : Block(path) {
  const auto norm = [&](const char* name) {
    return register_module(name, std::make_shared<RmsNorm>(path + "." + name, shape.width, shape.norm_eps));
  };
  input_layernorm_ = norm("input_layernorm");
  self_attn_ = register_module("self_attn", std::move(attention));
  post_attention_layernorm_ = norm("post_attention_layernorm");
  mlp_ = register_module("mlp", std::move(mlp));
}

at::Tensor DecoderBlock::attention(const at::Tensor& x, const Pass& pass) {
  return self_attn_->forward(input_layernorm_->forward(x), pass);
}

at::Tensor DecoderBlock::mlp(const at::Tensor& h, const Pass& pass) {
  return mlp_->forward(post_attention_layernorm_->forward(h), pass);
}

std::vector<LinearGroup> DecoderBlock::groups() {
  std::vector<LinearGroup> all = self_attn_->groups(*input_layernorm_);
  for (LinearGroup& group : mlp_->groups(*post_attention_layernorm_)) all.push_back(std::move(group));
  return all;
}

std::shared_ptr<core::Model> assemble(const Shape& shape, MakeAttention attention, MakeFeedForward mlp) {
  return std::make_shared<core::Model>(shape, [=](const std::string& path, int64_t layer) {
    return std::make_shared<DecoderBlock>(path, shape, attention(path + ".self_attn"), mlp(path + ".mlp", layer));
  });
}

}  // namespace models
