#include "models/qwen/block.h"

#include <ATen/ATen.h>

namespace models {

using core::LinearGroup;
using core::Pass;
using core::RmsNorm;
using core::Role;
using core::Shape;
using core::Slot;

Attention::Attention(const std::string& path, const Shape& shape, bool qkv_bias, bool o_bias) {
  const int64_t queries = shape.heads * shape.head_width, keys = shape.kv_heads * shape.head_width;
  const auto slot = [&](const char* name, Role role, int64_t outputs, int64_t inputs, bool has_bias) {
    return register_module(name, std::make_shared<Slot>(path + "." + name, role, outputs, inputs, has_bias));
  };
  q_proj = slot("q_proj", Role::q_proj, queries, shape.width, qkv_bias);
  k_proj = slot("k_proj", Role::k_proj, keys, shape.width, qkv_bias);
  v_proj = slot("v_proj", Role::v_proj, keys, shape.width, qkv_bias);
  o_proj = slot("o_proj", Role::o_proj, shape.width, queries, o_bias);
}

DecoderBlock::DecoderBlock(const std::string& path, const Shape& shape, std::shared_ptr<Attention> attention,
                           std::shared_ptr<Mlp> mlp)
    : Block(path), heads_per_kv_(shape.heads / shape.kv_heads), head_width_(shape.head_width) {
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

at::Tensor DecoderBlock::mlp(const at::Tensor& h) { return mlp_->forward(post_attention_layernorm_->forward(h)); }

core::Producer DecoderBlock::value_heads() const {
  return {.slot = self_attn_->v_proj.get(), .heads_per_kv = heads_per_kv_, .head_width = head_width_};
}

std::vector<LinearGroup> DecoderBlock::groups() {
  Attention& attention = *self_attn_;
  Mlp& mlp = *mlp_;
  return {
      {.slots = {attention.q_proj.get(), attention.k_proj.get(), attention.v_proj.get()},
       .producer = {.norm = input_layernorm_.get()},
       .parent = [&attention](const at::Tensor& x) { return attention.forward(x, Pass{}); }},
      {.slots = {attention.o_proj.get()}, .producer = value_heads(), .parent = {}},
      {.slots = {&mlp.gate_proj(), &mlp.up_proj()},
       .producer = {.norm = post_attention_layernorm_.get()},
       .parent = [&mlp](const at::Tensor& x) { return mlp.forward(x); }},
      {.slots = {&mlp.down_proj()}, .producer = {.slot = &mlp.up_proj()}, .parent = {}},
  };
}

}  // namespace models
