#include "core/block.h"

#include <ATen/ATen.h>

namespace core {

Block::Block(const std::string& path) {
  attention_gate_ = register_module("attention_gate", std::make_shared<Gate>(path + ".attention_gate"));
  mlp_gate_ = register_module("mlp_gate", std::make_shared<Gate>(path + ".mlp_gate"));
}

at::Tensor Block::forward(const at::Tensor& x, const Pass& pass) {
  at::Tensor h = x;  // [B, T, D]
  if (pass.only != Half::feed_forward) h = h + attention_gate_->forward(attention(h, pass));
  if (pass.only != Half::attention) h = h + mlp_gate_->forward(mlp(h, pass));
  return h;
}

std::vector<Slot*> Block::slots() {
  std::vector<Slot*> all;
  for (const LinearGroup& group : groups()) all.insert(all.end(), group.slots.begin(), group.slots.end());
  return all;
}

namespace {

void collect_loadables(torch::nn::Module& module, std::vector<Loadable*>& all) {
  if (auto* loadable = dynamic_cast<Loadable*>(&module)) return all.push_back(loadable);
  for (const auto& child : module.children()) collect_loadables(*child, all);
}

}  // namespace

std::vector<Loadable*> loadables(torch::nn::Module& module) {
  std::vector<Loadable*> all;
  collect_loadables(module, all);
  return all;
}

}  // namespace core
