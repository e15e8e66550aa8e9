// Rotary position embedding (Su 2021, arXiv 2104.09864) in Hugging Face's half-split layout, with the published ways of
// stretching it to longer contexts.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/io/hf_config.h"

namespace core {

// Rotates pairs (x_i, x_{i + C/2}) of a head by position · inv_freq_i.
class Rotary {
 public:
  // Reads rope_theta, rope_scaling (or rope_parameters) and max_position_embeddings of config.json. rope_type: default,
  // linear, yarn or llama3; another one is refused by name. head_width C must be even.
  static Rotary from_config(const JsonObject& config, int64_t head_width);

  // x: [B, T, H, C]; rotated in place when it is contiguous and no gradient is asked for, else a new tensor. Returns
  // the rotated tensor. position: of the first token.
  at::Tensor apply(at::Tensor x, int64_t position) const;

  // The same in tensor operations: the definition, the gradient, and the path of other devices and dtypes. Never in
  // place.
  at::Tensor apply_reference(const at::Tensor& x, int64_t position) const;

  const at::Tensor& inverse_frequency() const { return inverse_frequency_; }  // [C/2], float32, radians per token
  double attention_scale() const { return attention_scale_; }

 private:
  at::Tensor inverse_frequency_;
  double attention_scale_ = 1.0;  // yarn: multiplies cos and sin
  mutable at::Tensor cos_, sin_;  // [T, C/2], float32, grown on demand
  void grow(int64_t positions, at::Device device) const;
};

}  // namespace core
