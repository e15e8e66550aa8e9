// A mixture of experts as the rest of Refrain sees it: whatever is chosen, quantized or replicated expert by expert
// asks a block for its mixture (Block::mixture) and reads nothing from the paths of linears.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

#include "core/nn/slot.h"

namespace core {

class Mixture {
 public:
  // Experts of every token, [N, k] int64, and the weights of their outputs, [N, k].
  struct Route {
    at::Tensor experts, weights;
  };

  virtual ~Mixture() = default;
  virtual Slot& router() = 0;
  virtual int64_t experts() const = 0;                              // E
  virtual std::string expert_path(int64_t expert) const = 0;        // "model.layers.3.mlp.experts.7"
  virtual std::vector<Slot*> slots_of(int64_t expert) = 0;          // in the order in which they run
  virtual std::vector<Slot*> slots_of_shared() = 0;                 // linears of shared experts, their gate included
  virtual Route route(const at::Tensor& tokens) = 0;                // tokens: [N, D]
  virtual at::Tensor run(int64_t expert, const at::Tensor& x) = 0;  // [n, D] -> [n, D]
};

}  // namespace core
