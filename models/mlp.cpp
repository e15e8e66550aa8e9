#include "models/mlp.h"

#include "core/nn/activation.h"

namespace models {

using core::Role;
using core::Slot;

Mlp::Mlp(const std::string& path, int64_t width, int64_t ffn, bool has_bias) {
  const auto slot = [&](const char* name, Role role, int64_t outputs, int64_t inputs) {
    auto made = register_module(name, std::make_shared<Slot>(path + "." + name, role, outputs, inputs, has_bias));
    made->set_stays_in_file(true);
    return made;
  };
  gate_proj_ = slot("gate_proj", Role::gate_proj, ffn, width);
  up_proj_ = slot("up_proj", Role::up_proj, ffn, width);
  down_proj_ = slot("down_proj", Role::down_proj, width, ffn);
}

at::Tensor Mlp::forward(const at::Tensor& x) {
  const std::vector<at::Tensor> both = core::forward_each({gate_proj_.get(), up_proj_.get()}, x);  // [B, T, F] each
  return down_proj_->forward(core::silu_product(both[0], both[1]));                                // [B, T, D]
}

at::Tensor Mlp::forward(const at::Tensor& x, const core::Pass& /*pass*/) { return forward(x); }

std::vector<core::LinearGroup> Mlp::groups(core::RmsNorm& norm) {
  return {
      {.slots = {gate_proj_.get(), up_proj_.get()},
       .producer = {.norm = &norm},
       .parent = [this](const at::Tensor& x) { return forward(x); }},
      {.slots = {down_proj_.get()}, .producer = {.slot = up_proj_.get()}, .parent = {}},
  };
}

}  // namespace models
