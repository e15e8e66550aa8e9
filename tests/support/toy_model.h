// A core::Model without attention and without a family, for tests of everything below models/: each block computes
// x + down(silu(up(norm(x)))). Its weights are random, in a safetensors file of their own.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "core/io/safetensors.h"
#include "core/model.h"
#include "core/walk.h"
#include "tests/io/support.h"

namespace toy {

constexpr int64_t kLayers = 3, kWidth = 64, kFfn = 128, kVocabulary = 32;

class Block : public core::Block {
 public:
  explicit Block(const std::string& path) : core::Block(path) {
    norm_ = register_module("norm", std::make_shared<core::RmsNorm>(path + ".norm", kWidth, 1e-6));
    up_ = register_module("up",
                          std::make_shared<core::Slot>(path + ".mlp.up_proj", core::Role::up_proj, kFfn, kWidth, true));
    down_ = register_module(
        "down", std::make_shared<core::Slot>(path + ".mlp.down_proj", core::Role::down_proj, kWidth, kFfn, false));
  }
  at::Tensor attention(const at::Tensor& x, const core::Pass&) override { return at::zeros_like(x); }
  at::Tensor mlp(const at::Tensor& h, const core::Pass&) override {
    return down_->forward(at::silu(up_->forward(norm_->forward(h))));
  }
  std::vector<core::LinearGroup> groups() override {
    return {{{up_.get()}, {.norm = norm_.get()}, {}}, {{down_.get()}, {}, {}}};  // silu is in between
  }

 private:
  std::shared_ptr<core::RmsNorm> norm_;
  std::shared_ptr<core::Slot> up_, down_;  // up_ has a bias
};

inline std::string layer(int64_t index) { return "model.layers." + std::to_string(index); }

inline std::shared_ptr<core::Model> skeleton() {
  const core::Shape shape{
      .family = "toy", .layers = kLayers, .width = kWidth, .vocabulary = kVocabulary, .tied = true, .norm_eps = 1e-6};
  return std::make_shared<core::Model>(shape,
                                       [](const std::string& path, int64_t) { return std::make_shared<Block>(path); });
}

// Writes float32 tensors as model.safetensors of a directory.
inline void write(const std::string& directory, const std::vector<std::pair<std::string, at::Tensor>>& tensors) {
  std::vector<core::TensorToWrite> out;
  for (const auto& [name, tensor] : tensors)
    out.push_back({name, core::DType::F32, tensor.sizes().vec(), tensor.const_data_ptr()});
  core::write_safetensors(directory + "/model.safetensors", out);
}

inline std::vector<std::pair<std::string, at::Tensor>> random_tensors() {
  at::manual_seed(1);
  std::vector<std::pair<std::string, at::Tensor>> all{{"model.embed_tokens.weight", at::randn({kVocabulary, kWidth})},
                                                      {"model.norm.weight", at::rand({kWidth}) + 0.5}};
  for (int64_t i = 0; i < kLayers; ++i) {
    all.emplace_back(layer(i) + ".norm.weight", at::rand({kWidth}) + 0.5);
    all.emplace_back(layer(i) + ".mlp.up_proj.weight", at::randn({kFfn, kWidth}) / 8);
    all.emplace_back(layer(i) + ".mlp.up_proj.bias", at::randn({kFfn}) / 8);
    all.emplace_back(layer(i) + ".mlp.down_proj.weight", at::randn({kWidth, kFfn}) / 8);
  }
  return all;
}

// The skeleton with embedding, norm and head loaded; blocks come from `source`.
struct Toy {
  core::Scratch directory;
  std::shared_ptr<core::Model> model = skeleton();
  std::unique_ptr<core::Weights> weights;
  std::unique_ptr<core::ResidentSource> source;

  explicit Toy(const std::vector<std::pair<std::string, at::Tensor>>& tensors = random_tensors()) {
    write(directory.path(), tensors);
    weights = std::make_unique<core::Weights>(
        std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory.path())), at::kFloat, at::kCPU);
    source = std::make_unique<core::ResidentSource>(*weights);
    model->load_embedding_and_head(*weights);
  }
  void load_blocks() {
    for (int64_t i = 0; i < kLayers; ++i) source->load(*model, i);
  }
  core::Slot& slot(size_t index) { return *model->slots().at(index); }
  void walk(const std::vector<core::Stage*>& stages, core::Streams streams = {}) {
    core::walk(*model, *source, stages, streams);
  }
};

inline at::Tensor ids(int64_t batch = 2, int64_t tokens = 5) {
  return at::arange(batch * tokens, at::kLong).mul(7).remainder(kVocabulary).reshape({batch, tokens});
}

}  // namespace toy
