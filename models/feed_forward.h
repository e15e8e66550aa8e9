// What a decoder block does after attention: dense, or a mixture of experts.
#pragma once

#include <vector>

#include "core/model.h"

namespace models {

class FeedForward : public torch::nn::Module {
 public:
  virtual at::Tensor forward(const at::Tensor& x, const core::Pass& pass) = 0;  // [B, T, D] -> [B, T, D]
  // norm: whose output it reads.
  virtual std::vector<core::LinearGroup> groups(core::RmsNorm& norm) = 0;
  virtual core::Mixture* mixture() { return nullptr; }  // itself, if it is a mixture of experts
};

}  // namespace models
