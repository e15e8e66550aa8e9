// The place of one linear in a model. A slot owns the pointer and is the only one that swaps it, so that "quantize" and
// "replicate" mean: put another Linear into the slot.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "core/nn/half.h"
#include "core/nn/linear.h"
#include "core/nn/weights.h"

namespace core {

// What the linear does in its block; patterns in rules and reports use these names.
enum class Role {
  q_proj,
  k_proj,
  v_proj,
  o_proj,
  gate_proj,
  up_proj,
  down_proj,
  lm_head,
  embed_tokens,
  router,              // of a mixture of experts: its outputs choose the experts of a token
  shared_expert_gate,  // its output weighs the shared experts
  q_a_proj,            // of latent attention (DeepSeek-V2): from D to the latent of the queries,
  q_b_proj,            // and on to the heads
  kv_a_proj,           // to the latent of keys and values, and the part of the keys that is rotated
  kv_b_proj,           // from the latent to keys and values of the heads
};

// Whether a linear is there for keys and values alone.
constexpr bool makes_keys(Role role) {
  return role == Role::k_proj || role == Role::v_proj || role == Role::kv_a_proj || role == Role::kv_b_proj;
}

// Whether a linear reads the norm before its half of the block, not what other linears have made of it.
constexpr bool reads_norm(Role role) {
  switch (role) {
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::q_a_proj:
    case Role::kv_a_proj:
    case Role::gate_proj:
    case Role::up_proj:
      return true;
    default:
      return false;
  }
}

// The half of a block in which a linear stands; none: it is no linear of a block.
constexpr Half half_of(Role role) {
  switch (role) {
    case Role::q_proj:
    case Role::k_proj:
    case Role::v_proj:
    case Role::o_proj:
    case Role::q_a_proj:
    case Role::q_b_proj:
    case Role::kv_a_proj:
    case Role::kv_b_proj:
      return Half::attention;
    case Role::gate_proj:
    case Role::up_proj:
    case Role::down_proj:
    case Role::router:
    case Role::shared_expert_gate:
      return Half::feed_forward;
    case Role::lm_head:
    case Role::embed_tokens:
      return Half::none;
  }
  return Half::none;
}

const char* name_of(Role role);

// Where a slot stands in its model.
struct SlotPlace {
  int64_t block = -1;      // index of its block, that of the block for a replica too; -1: it stands in no block
  int64_t expert = -1;     // index of its expert in the mixture of the block; -1: it belongs to none
  bool is_shared = false;  // whether it belongs to shared experts, their gate included
};

class Slot : public torch::nn::Module, public Loadable {
 public:
  // path: Hugging Face module path, e.g. "model.layers.3.mlp.up_proj"; its tensors are path + ".weight" and ".bias".
  Slot(std::string path, Role role, int64_t out_features, int64_t in_features, bool has_bias);

  at::Tensor forward(const at::Tensor& x) { return linear().forward(x); }  // [..., I] -> [..., O]

  Linear& linear() const;                          // its own or the one that it shares; TORCH_CHECKs that there is one
  const std::shared_ptr<Linear>& pointer() const;  // the same; null if there is none
  std::shared_ptr<Linear> in_memory() const;       // the same; of one that lies in the file what is read now
  void put(std::shared_ptr<Linear> linear);        // replaces what is there; sizes must match
  // Puts what `read` gives: at once, or, where the slot stays in the file of a streamed model, whenever it is used.
  void put(const Weights& weights, FiledLinear::Read read);
  bool filled() const { return linear_ != nullptr; }  // with one of its own

  void check(const Weights& weights) const override;
  void load(const Weights& weights) override;
  void unload() override;
  std::vector<State> state() const override;
  // Of one that shares: what running costs, and what its own linear stores beside the codes.
  Cost cost() const override;
  void share(const Loadable& original) override;
  // Fraction of tokens that reach this linear, k/E for an expert. The bill multiplies the cost per token by it.
  double token_fraction() const { return token_fraction_; }
  void set_token_fraction(double fraction) { token_fraction_ = fraction; }

  // Whether a streamed model reads the linear whenever it is used instead of with its block: the linears of
  // feed-forward networks and experts, which hold most of the weights.
  bool stays_in_file() const { return stays_in_file_; }
  void set_stays_in_file(bool stays) { stays_in_file_ = stays; }

  // The model sets the place when it builds the block.
  int64_t block() const { return place_.block; }
  int64_t expert() const { return place_.expert; }
  bool is_shared() const { return place_.is_shared; }
  Half half() const { return half_of(role_); }
  void set_place(const SlotPlace& place) { place_ = place; }

  const std::string& path() const { return path_; }
  Role role() const { return role_; }
  int64_t out_features() const { return out_features_; }
  int64_t in_features() const { return in_features_; }
  bool has_bias() const { return has_bias_; }
  const Slot* original() const { return original_; }  // that it shares; null: none

 private:
  std::string path_;
  Role role_;
  SlotPlace place_;
  int64_t out_features_, in_features_;
  bool has_bias_;
  std::shared_ptr<Linear> linear_;
  const Slot* original_ = nullptr;
  double token_fraction_ = 1;
  bool stays_in_file_ = false;
};

// What several slots make of one input: x [..., I] -> [..., O] of each.
std::vector<at::Tensor> forward_each(std::initializer_list<const Slot*> slots, const at::Tensor& x);

}  // namespace core
