// What the tests of export/ share: a golden model opened as the runner opens it, quantized and saved in one walk.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "export/checkpoint.h"
#include "models/registry.h"
#include "quant/linear/quantized_linear.h"
#include "quant/stage/quantize.h"
#include "replication/config.h"
#include "tests/io/support.h"

namespace exports {

inline std::string golden(const std::string& model) {
  return std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/models/" + model;
}

// Their names: one or more of every family (tests/models/golden_test.cpp).
inline std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(golden("")))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

// A model with all its tensors.
struct Opened {
  std::string directory;
  std::shared_ptr<core::Model> model;
  core::Weights weights;
  std::unique_ptr<core::BlockSource> source;

  at::Tensor logits() {
    at::NoGradGuard no_gradient;
    const at::Tensor ids = at::arange(14, at::kLong).mul(5).remainder(model->shape().vocabulary).reshape({2, 7});
    return model->forward(ids);
  }
};

inline core::Weights weights_of(const std::string& directory, at::ScalarType dtype) {
  return core::Weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory)), dtype, at::kCPU);
}

inline Opened opened(const std::string& directory, at::ScalarType dtype = at::kFloat) {
  const core::Weights weights = weights_of(directory, dtype);
  auto model = models::build(core::read_hf_config(directory));
  auto source = open_source(*model, directory, weights);
  load_embedding_and_head(*model, directory, weights);
  for (int64_t i = 0; i < model->shape().layers; ++i) source->load(*model, i);
  return {directory, model, weights, std::move(source)};
}

// Quantizes by the `quant` section given as YAML, lets `between` work on each block, saves.
inline void save(Opened& opened, const std::string& quant_yaml, const std::string& out, const std::string& commit = {},
                 const std::vector<core::Stage*>& between = {}, const std::string& replication_yaml = "{}",
                 replication::OwnParameters own = {}) {
  replication::ReplicationConfig replication;
  core::bind(core::parse_yaml(replication_yaml, "test.yaml"), replication, "replication");
  const replication::Selection& select = replication.select;
  replication::follow_plan(replication, *opened.model, select.chosen_linears(*opened.model, {}, /*seed=*/0));
  replication::Replicate replicate(replication, own, /*seed=*/0);
  quant::QuantConfig config;
  core::bind(core::parse_yaml(quant_yaml, "test.yaml"), config, "quant");
  const auto method = config.methods.find(config.method);
  const auto encoded_of = [&](const std::string& path) {  // of a linear whose codes another one shares
    for (const core::Slot* slot : opened.model->slots()) {
      if (slot->path() != path) continue;
      const auto& linear = dynamic_cast<const quant::QuantizedLinear&>(slot->linear());
      return quant::Encoded{linear.codes().unpack(), linear.parameters()};
    }
    throw std::logic_error("no linear " + path);
  };
  quant::Quantize quantize(method == config.methods.end() ? nullptr : method->second.share(), config.method,
                           quant::assign(config, *opened.model, /*seed=*/0, replication::coding_of(replication)), {},
                           encoded_of);
  Save save(opened.directory, opened.weights, out, commit);
  std::vector<core::Stage*> stages;
  if (config.method != quant::QuantConfig::kNone) stages.push_back(&quantize);
  core::HiddenStore text(1);
  text.put(0, opened.model->embed(at::arange(8, at::kLong).reshape({2, 4})));
  quantize.quantize_embedding_and_head(*opened.model);
  stages.insert(stages.end(), between.begin(), between.end());
  stages.insert(stages.end(), {&replicate, &save});
  const bool reads = quantize.reads_stream(*opened.model);
  core::walk(*opened.model, *opened.source, stages, {.quantized = reads ? &text : nullptr});
}

// Doubles the last norm, as folding a factor into it would.
class ChangeOfNorm : public core::Stage {
 public:
  std::string name() const override { return "change"; }
  int version() const override { return 1; }
  void begin(core::Model& model) override {
    at::NoGradGuard no_gradient;
    model.norm().weight().mul_(2.001);
  }
};

// Fails as a full disk would.
class StopAtBlock : public core::Stage {
 public:
  explicit StopAtBlock(int64_t index) : index_(index) {}
  std::string name() const override { return "stop"; }
  int version() const override { return 1; }
  void block(core::BlockContext& context) override {
    if (context.index == index_) throw std::runtime_error("stopped");
  }

 private:
  int64_t index_;
};

}  // namespace exports
