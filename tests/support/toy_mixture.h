// A block class of its own with a mixture of experts, for tests of everything that works expert by expert: nothing
// below models/ may know a family's classes.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "core/model.h"
#include "tests/support/toy_model.h"

namespace toy {

constexpr int64_t kExperts = 3;

// h + the output of the router's first choice + the shared experts'. `admits`: whether it says that it is a mixture.
class MixtureBlock : public core::Block, public core::Mixture {
 public:
  MixtureBlock(const std::string& path, bool admits) : core::Block(path), path_(path), admits_(admits) {
    const auto slot = [&](const std::string& name, core::Role role, int64_t outputs, int64_t inputs) {
      std::string key = name;
      for (char& c : key) c = c == '.' ? '_' : c;
      return register_module(key, std::make_shared<core::Slot>(path + ".moe." + name, role, outputs, inputs, false));
    };
    router_ = slot("gate", core::Role::router, kExperts, kWidth);
    shared_ = slot("common.up_proj", core::Role::up_proj, kWidth, kWidth);
    for (int64_t e = 0; e < kExperts; ++e)
      experts_.push_back(slot("experts." + std::to_string(e) + ".up_proj", core::Role::up_proj, kWidth, kWidth));
  }
  at::Tensor attention(const at::Tensor& x, const core::Pass&) override { return at::zeros_like(x); }
  at::Tensor mlp(const at::Tensor& h, const core::Pass&) override { return shared_->forward(h); }
  std::vector<core::LinearGroup> groups() override {
    std::vector<core::LinearGroup> all{{{router_.get(), shared_.get()}, {}, {}}};
    for (const auto& expert : experts_) all.push_back({{expert.get()}, {}, {}});
    return all;
  }
  core::Mixture* mixture() override { return admits_ ? this : nullptr; }

  core::Slot& router() override { return *router_; }
  int64_t experts() const override { return kExperts; }
  std::string expert_path(int64_t expert) const override { return path_ + ".moe.experts." + std::to_string(expert); }
  std::vector<core::Slot*> slots_of(int64_t expert) override { return {experts_.at(expert).get()}; }
  std::vector<core::Slot*> slots_of_shared() override { return {shared_.get()}; }
  Route route(const at::Tensor& tokens) override {
    return {router_->forward(tokens).argmax(-1, /*keepdim=*/true), at::ones({tokens.size(0), 1})};
  }
  at::Tensor run(int64_t expert, const at::Tensor& x) override { return experts_.at(expert)->forward(x); }

 private:
  std::string path_;
  bool admits_;
  std::shared_ptr<core::Slot> router_, shared_;
  std::vector<std::shared_ptr<core::Slot>> experts_;
};

// A dense block between two with experts.
inline std::shared_ptr<core::Model> mixture_skeleton(bool admits = true) {
  const core::Shape shape{
      .family = "toy", .layers = 3, .width = kWidth, .vocabulary = kVocabulary, .tied = true, .norm_eps = 1e-6};
  return std::make_shared<core::Model>(shape,
                                       [=](const std::string& path, int64_t index) -> std::shared_ptr<core::Block> {
                                         if (index == 1) return std::make_shared<Block>(path);
                                         return std::make_shared<MixtureBlock>(path, admits);
                                       });
}

}  // namespace toy
