// What the families put before the feed-forward network of a block.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/model.h"
#include "core/nn/prefix.h"
#include "core/nn/rotary.h"

namespace models {

class Attention : public torch::nn::Module {
 public:
  // path: "model.layers.3.self_attn"; of K heads of keys and values, whose widths are C and C'.
  Attention(const std::string& path, int64_t heads, int64_t key_width, int64_t value_width)
      : prefix_(register_module("prefix", std::make_shared<core::Prefix>(path, heads, key_width, value_width))) {}

  virtual at::Tensor forward(const at::Tensor& x, const core::Pass& pass) = 0;  // [B, T, D] -> [B, T, D]
  // norm: whose output it reads.
  virtual std::vector<core::LinearGroup> groups(core::RmsNorm& norm) = 0;

 protected:
  const core::Prefix& prefix() const { return *prefix_; }
  // Heads [B, T, H, C] rotated by the positions of their tokens, in place where Rotary does so.
  at::Tensor turned(const core::Rotary& rotary, const at::Tensor& heads, const core::Pass& pass) const;

 private:
  std::shared_ptr<core::Prefix> prefix_;
};

// Grouped-query attention (Ainslie 2023, arXiv 2305.13245) with rotated queries and keys.
class GroupedQueryAttention : public Attention {
 public:
  struct Options {
    bool qkv_bias = false, o_bias = false;
    bool head_norms = false;  // queries and keys are normalized per head before they are rotated
  };
  // path: "model.layers.3.self_attn"; rotary: one for all blocks.
  GroupedQueryAttention(const std::string& path, const core::Shape& shape, std::shared_ptr<const core::Rotary> rotary,
                        Options options);

  at::Tensor forward(const at::Tensor& x, const core::Pass& pass) override;
  std::vector<core::LinearGroup> groups(core::RmsNorm& norm) override;

 private:
  at::Tensor heads_of(const at::Tensor& projected) const;  // [B, T, H or K times C] -> [B, T, H or K, C]
  // The same, normalized and rotated.
  at::Tensor rotated(const at::Tensor& projected, core::RmsNorm* norm, const core::Pass& pass) const;

  int64_t heads_per_kv_, head_width_;
  std::shared_ptr<const core::Rotary> rotary_;
  std::shared_ptr<core::Slot> q_proj_;              // [H · C, D]
  std::shared_ptr<core::Slot> k_proj_, v_proj_;     // [K · C, D]
  std::shared_ptr<core::Slot> o_proj_;              // [D, H · C]
  std::shared_ptr<core::RmsNorm> q_norm_, k_norm_;  // [C]; null: none
};

}  // namespace models
