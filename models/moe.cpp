#include "models/moe.h"

#include <ATen/ATen.h>

namespace models {

using core::LinearGroup;
using core::Role;
using core::Slot;

namespace {

std::vector<Slot*> slots_in(Mlp& mlp) { return {&mlp.gate_proj(), &mlp.up_proj(), &mlp.down_proj()}; }

}  // namespace

Moe::Moe(const std::string& path, const MoeShape& shape) : path_(path), shape_(shape) {
  gate_ = register_module("gate", std::make_shared<Slot>(path + ".gate", Role::router, shape.experts, shape.width,
                                                         /*has_bias=*/false));
  for (int64_t e = 0; e < shape.experts; ++e) {
    experts_.push_back(register_module("expert" + std::to_string(e),
                                       std::make_shared<Mlp>(expert_path(e), shape.width, shape.ffn, shape.has_bias)));
    for (Slot* slot : slots_of(e))
      slot->set_token_fraction(static_cast<double>(shape.top_k) / static_cast<double>(shape.experts));
  }
  if (shape.shared_ffn == 0) return;
  shared_ = register_module(
      "shared", std::make_shared<Mlp>(path + "." + shape.shared_name, shape.width, shape.shared_ffn, shape.has_bias));
  if (!shape.shared_gate) return;
  shared_gate_ = register_module(
      "shared_gate", std::make_shared<Slot>(path + "." + shape.shared_name + "_gate", Role::shared_expert_gate, 1,
                                            shape.width, /*has_bias=*/false));
}

std::string Moe::expert_path(int64_t expert) const { return path_ + ".experts." + std::to_string(expert); }

std::vector<Slot*> Moe::slots_of(int64_t expert) { return slots_in(*experts_.at(expert)); }

std::vector<Slot*> Moe::slots_of_shared() {
  std::vector<Slot*> all;
  if (shared_ != nullptr) all = slots_in(*shared_);
  if (shared_gate_ != nullptr) all.push_back(shared_gate_.get());
  return all;
}

Moe::Route Moe::route(const at::Tensor& tokens) { return route_to(tokens, {}); }

Moe::Route Moe::route_to(const at::Tensor& tokens, const at::Tensor& experts) {
  const at::Tensor probability = at::softmax(gate_->forward(tokens), -1, at::kFloat);  // [N, E]
  const at::Tensor chosen = experts.defined() ? experts : std::get<1>(at::topk(probability, shape_.top_k, -1));
  at::Tensor weights = probability.gather(-1, chosen);  // [N, k]
  if (shape_.normalize) weights = weights / weights.sum(-1, /*keepdim=*/true);
  return {chosen, (weights * shape_.scaling).to(tokens.scalar_type())};
}

at::Tensor Moe::shared(const at::Tensor& tokens) {
  if (shared_ == nullptr) return at::zeros_like(tokens);
  const at::Tensor output = shared_->forward(tokens);
  return shared_gate_ == nullptr ? output : output * at::sigmoid(shared_gate_->forward(tokens));
}

at::Tensor Moe::forward(const at::Tensor& x, const core::Pass& pass) {
  const at::Tensor tokens = x.reshape({-1, shape_.width});  // [N, D]
  const Route route = route_to(tokens, pass.experts == nullptr ? at::Tensor() : *pass.experts);
  if (pass.experts != nullptr) *pass.experts = route.experts;
  const at::Tensor of_shared = shared(tokens);
  at::Tensor sum = at::zeros_like(tokens);
  // The N · k places in the order of their experts: one product per expert, on the tokens that were sent to it.
  const at::Tensor flat = route.experts.flatten();
  const at::Tensor order = at::argsort(flat, /*stable=*/true, /*dim=*/0);
  const at::Tensor counts = at::bincount(flat, {}, shape_.experts).cpu();
  const at::Tensor weights = route.weights.flatten().unsqueeze(-1);  // [N · k, 1]
  for (int64_t e = 0, first = 0; e < shape_.experts; ++e) {
    const int64_t count = counts.const_data_ptr<int64_t>()[e];
    if (count == 0 && !pass.all_experts) continue;
    const at::Tensor places = order.slice(0, first, first + count);
    const at::Tensor rows = at::div(places, shape_.top_k, "floor");
    const at::Tensor output = pass.all_experts ? experts_[e]->forward(tokens).index_select(0, rows)
                                               : experts_[e]->forward(tokens.index_select(0, rows));  // [n, D]
    sum.index_add_(0, rows, output * weights.index_select(0, places));
    first += count;
  }
  return (sum + of_shared).reshape(x.sizes());
}

std::vector<LinearGroup> Moe::groups(core::RmsNorm& /*norm*/) {
  std::vector<LinearGroup> all{{.slots = {gate_.get()}, .producer = {}, .parent = {}}};
  std::vector<Slot*>& of_all_tokens = all.front().slots;
  if (shared_gate_ != nullptr) of_all_tokens.push_back(shared_gate_.get());
  const auto add_down = [&](Mlp& mlp, const char* pool) {
    all.push_back({.slots = {&mlp.down_proj()}, .producer = {.slot = &mlp.up_proj()}, .parent = {}, .pool = pool});
  };
  if (shared_ != nullptr) {
    of_all_tokens.insert(of_all_tokens.end(), {&shared_->gate_proj(), &shared_->up_proj()});
    add_down(*shared_, "");
  }
  for (const auto& expert : experts_) {
    all.push_back({.slots = {&expert->gate_proj(), &expert->up_proj()},
                   .producer = {},
                   .parent = {},
                   .pool = "inputs of experts"});
    add_down(*expert, "inner of experts");
  }
  return all;
}

}  // namespace models
