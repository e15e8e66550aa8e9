// The dense feed-forward network of all families, and one expert of a mixture (SwiGLU, Shazeer 2020, arXiv 2002.05202).
#pragma once

#include <memory>
#include <string>

#include "models/feed_forward.h"

namespace models {

class Mlp : public FeedForward {
 public:
  // path: "model.layers.3.mlp"; width: D; ffn: F.
  Mlp(const std::string& path, int64_t width, int64_t ffn, bool has_bias);

  at::Tensor forward(const at::Tensor& x, const core::Pass& pass) override;
  at::Tensor forward(const at::Tensor& x);  // [..., D] -> [..., D]
  std::vector<core::LinearGroup> groups(core::RmsNorm& norm) override;

  core::Slot& gate_proj() { return *gate_proj_; }
  core::Slot& up_proj() { return *up_proj_; }
  core::Slot& down_proj() { return *down_proj_; }

 private:
  std::shared_ptr<core::Slot> gate_proj_;  // [F, D]
  std::shared_ptr<core::Slot> up_proj_;    // [F, D]
  std::shared_ptr<core::Slot> down_proj_;  // [D, F]
};

}  // namespace models
