// A factor on a residual branch. Open, which multiplies nothing and stores nothing, until it is given a value.
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "core/nn/weights.h"

namespace core {

class Gate : public torch::nn::Module, public Loadable {
 public:
  explicit Gate(std::string name);  // of its tensor, e.g. "model.layers.3.replica1.attention_gate"

  // [B, T, D] -> [B, T, D], value · branch.
  at::Tensor forward(const at::Tensor& branch) const;
  void put(double value);
  const at::Tensor& value() const { return value_; }  // [1] float32; undefined: open

  void check(const Weights&) const override {}  // one that is not in the checkpoint is open
  void load(const Weights& weights) override;
  void unload() override {}  // a number: it stays
  std::vector<State> state() const override;
  Cost cost() const override;

 private:
  void put(at::Tensor value);

  std::string name_;
  at::Tensor value_;
};

}  // namespace core
