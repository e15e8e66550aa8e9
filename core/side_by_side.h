// Replicas of a block that run side by side on one input: each half of the block adds the mean of what theirs give, and
// all attend to the keys and values of the first. Linear by linear, where that reads the codes that they share once;
// otherwise one replica after the other.
#pragma once

#include <memory>
#include <vector>

#include "core/block.h"

namespace core {

class SideBySide {
 public:
  // joint: another block of the same shape, which holds nothing; it comes to stand for all of them.
  SideBySide(std::vector<Block*> replicas, std::shared_ptr<Block> joint);

  at::Tensor forward(const at::Tensor& x, const Pass& pass);  // [B, T, D] -> [B, T, D]

 private:
  bool joins() const;  // whether some linears read codes once for all, and norms are common
  // What the half of every replica gives, [B, T, D] each.
  std::vector<at::Tensor> attention(const at::Tensor& x, const Pass& pass, bool joins);
  std::vector<at::Tensor> mlp(const at::Tensor& h, const Pass& pass, bool joins);

  std::vector<Block*> replicas_;
  // Its linears are those of all replicas: hidden states behind the norms are [R · B, T, …].
  std::shared_ptr<Block> joint_;
  bool has_experts_;                                // which see other tokens in every replica: these run in turn
  std::vector<std::vector<const Slot*>> slots_;     // that the joint block runs side by side: of the first replica, ...
  std::vector<std::vector<const RmsNorm*>> norms_;  // likewise
};

}  // namespace core
