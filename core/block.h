// A decoder block as the rest of Refrain sees it: two residual halves, and what it says of itself, by which methods,
// transforms and strategies work on blocks of every family.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/mixture.h"
#include "core/nn/attention.h"
#include "core/nn/gate.h"
#include "core/nn/norm.h"
#include "core/nn/slot.h"

namespace core {

// Where the input of a group of linears comes from, so that a per-channel factor can be folded into it.
struct Producer {
  RmsNorm* norm = nullptr;  // the input is this norm's output, or
  Slot* slot = nullptr;     // the input is made of this linear's outputs, each repeated for `heads_per_kv` query heads:
  int64_t heads_per_kv = 1;  // v_proj -> o_proj under grouped-query attention; 1 elsewhere
  int64_t head_width = 0;    // C, of the slot's outputs; 0 when outputs map one to one
};

// Linears that share one input, in the order in which the block runs its groups. With a producer they are all that
// read its output.
struct LinearGroup {
  std::vector<Slot*> slots;
  Producer producer;
  // The smallest module around the group, for searches that judge a parent's output: input of the group [B, T, I] ->
  // its output. Null: the group is judged by its own outputs.
  std::function<at::Tensor(const at::Tensor&)> parent;
  // Groups of one name are alike but see different tokens: the experts of a block. Empty: none is like it.
  std::string pool = {};
};

// One decoder block of two residual halves. Describes itself by its groups; forward runs with whatever its slots hold.
class Block : public torch::nn::Module {
 public:
  explicit Block(const std::string& path);  // "model.layers.3"

  // What each half adds, its norm included: [B, T, D] -> [B, T, D].
  virtual at::Tensor attention(const at::Tensor& x, const Pass& pass) = 0;
  virtual at::Tensor mlp(const at::Tensor& h, const Pass& pass) = 0;
  virtual std::vector<LinearGroup> groups() = 0;
  // The mixture of experts that the feed-forward half is; null: it is dense.
  virtual Mixture* mixture() { return nullptr; }

  at::Tensor forward(const at::Tensor& x, const Pass& pass);  // [B, T, D] -> [B, T, D]
  Gate& attention_gate() { return *attention_gate_; }
  Gate& mlp_gate() { return *mlp_gate_; }
  std::vector<Slot*> slots();  // of all groups, in execution order

 private:
  std::shared_ptr<Gate> attention_gate_, mlp_gate_;
};
using MakeBlock = std::function<std::shared_ptr<Block>(const std::string& path, int64_t index)>;

// The Loadable modules inside, in order of registration; a Loadable's own children belong to it.
std::vector<Loadable*> loadables(torch::nn::Module& module);

}  // namespace core
