// Keys and values of a few tokens in front of every text, computed once in full precision and attended to by all
// tokens: what attends to the first token and makes it large (an attention sink) then sits there, and not in what is
// quantized (PrefixQuant, Chen et al. 2024, arXiv 2410.05265).
#pragma once

#include <torch/nn/module.h>

#include <string>

#include "core/nn/attention.h"
#include "core/nn/weights.h"

namespace core {

// Those of one attention. There are none unless the weights that it is loaded from have some.
class Prefix : public torch::nn::Module, public Loadable {
 public:
  // path: of the attention, "model.layers.3.self_attn"; K heads of C and of C' numbers.
  Prefix(const std::string& path, int64_t heads, int64_t key_width, int64_t value_width);

  int64_t length() const { return held_.k.defined() ? held_.k.size(1) : 0; }  // P, tokens
  const KeyValues* get() const { return length() > 0 ? &held_ : nullptr; }    // [1, P, K, C] and [1, P, K, C']

  // Names of the tensors [P, K, C] and [P, K, C'] of an attention.
  static std::string keys_of(const std::string& path) { return path + ".prefix.keys"; }
  static std::string values_of(const std::string& path) { return path + ".prefix.values"; }

  void check(const Weights& weights) const override;
  void load(const Weights& weights) override;
  void unload() override { held_ = {}; }
  std::vector<State> state() const override;
  Cost cost() const override;

 private:
  std::string path_;
  int64_t heads_, key_width_, value_width_;
  KeyValues held_;
};

}  // namespace core
