#include "core/nn/slot.h"

#include <ATen/ATen.h>

#include <array>
#include <cmath>

namespace core {

const char* name_of(Role role) {
  constexpr std::array kNames{"q_proj",    "k_proj",    "v_proj",       "o_proj", "gate_proj",          "up_proj",
                              "down_proj", "lm_head",   "embed_tokens", "router", "shared_expert_gate", "q_a_proj",
                              "q_b_proj",  "kv_a_proj", "kv_b_proj"};
  return kNames.at(static_cast<size_t>(role));
}

Slot::Slot(std::string path, Role role, int64_t out_features, int64_t in_features, bool has_bias)
    : path_(std::move(path)),
      role_(role),
      out_features_(out_features),
      in_features_(in_features),
      has_bias_(has_bias) {}

const std::shared_ptr<Linear>& Slot::pointer() const {
  return linear_ == nullptr && original_ != nullptr ? original_->pointer() : linear_;
}

Linear& Slot::linear() const {
  TORCH_CHECK(pointer() != nullptr, path_, ": used before it was loaded");
  return *pointer();
}

std::shared_ptr<Linear> Slot::in_memory() const {
  const auto* filed = dynamic_cast<const FiledLinear*>(pointer().get());
  return filed == nullptr ? pointer() : filed->read();
}

void Slot::put(std::shared_ptr<Linear> linear) {
  TORCH_CHECK(linear != nullptr && linear->out_features() == out_features_ && linear->in_features() == in_features_,
              path_, ": a linear of another size was put into the slot of [", out_features_, ", ", in_features_, "]");
  if (filled()) {
    linear_ = replace_module("linear", std::move(linear));
  } else {
    linear_ = register_module("linear", std::move(linear));
  }
}

void Slot::put(const Weights& weights, FiledLinear::Read read) {
  const bool stays = stays_in_file_ && weights.is_streamed();
  put(stays ? std::make_shared<FiledLinear>(out_features_, in_features_, std::move(read)) : read());
}

void Slot::check(const Weights& weights) const {
  if (original_ != nullptr) return;
  weights.check(path_ + ".weight", {out_features_, in_features_});
  if (has_bias_) weights.check(path_ + ".bias", {out_features_});
}

void Slot::load(const Weights& weights) {
  if (original_ != nullptr) return;
  put(weights, [this, weights]() -> std::shared_ptr<Linear> {
    LoadedTensor weight = weights.read(path_ + ".weight", {out_features_, in_features_});
    at::Tensor bias;
    if (has_bias_)
      bias = weights.read(path_ + ".bias", {out_features_}).tensor.clone();  // small, and folding may write to it
    return std::make_shared<DenseLinear>(std::move(weight.tensor), std::move(bias), weight.stored_bits);
  });
}

void Slot::unload() {
  if (!filled()) return;
  unregister_module("linear");
  linear_.reset();
}

std::vector<State> Slot::state() const {
  if (!filled()) return {};
  std::vector<State> all = linear_->state();
  for (State& entry : all) entry.name = path_ + "." + entry.name;
  return all;
}

Cost Slot::cost() const {
  Cost cost = linear().cost();
  cost.macs = std::llround(static_cast<double>(cost.macs) * token_fraction_);
  cost.bytes_read = std::llround(static_cast<double>(cost.bytes_read) * token_fraction_);
  if (original_ == nullptr) return cost;
  if (!filled()) return cost.running();
  cost.weights = cost.dense_bits = 0;  // the original stands for the weights and stores the bias
  return cost;
}

void Slot::share(const Loadable& original) {
  original_ = dynamic_cast<const Slot*>(&original);
  TORCH_CHECK(
      original_ != nullptr && original_->out_features() == out_features_ && original_->in_features() == in_features_,
      path_, ": shares a linear of another shape");
}

std::vector<at::Tensor> forward_each(std::initializer_list<const Slot*> slots, const at::Tensor& x) {
  std::vector<Linear*> all;
  for (const Slot* slot : slots) all.push_back(&slot->linear());
  return all.front()->forward_each(all, x);
}

}  // namespace core
