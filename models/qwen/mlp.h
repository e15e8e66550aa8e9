// The feed-forward network that llama, qwen2 and qwen3 share (SwiGLU, Shazeer 2020, arXiv 2002.05202).
#pragma once

#include <memory>
#include <string>

#include "core/nn/slot.h"

namespace models {

class Mlp : public torch::nn::Module {
 public:
  // path: "model.layers.3.mlp"; width: D; ffn: F.
  Mlp(const std::string& path, int64_t width, int64_t ffn, bool has_bias);

  at::Tensor forward(const at::Tensor& x);  // [B, T, D] -> [B, T, D]

  core::Slot& gate_proj() { return *gate_proj_; }
  core::Slot& up_proj() { return *up_proj_; }
  core::Slot& down_proj() { return *down_proj_; }

 private:
  std::shared_ptr<core::Slot> gate_proj_;  // [F, D]
  std::shared_ptr<core::Slot> up_proj_;    // [F, D]
  std::shared_ptr<core::Slot> down_proj_;  // [D, F]
};

}  // namespace models
