// The published ways of stretching rotary embeddings to contexts longer than the one trained on. Each turns the keys of
// `rope_scaling` into inverse frequencies and a factor for cos and sin.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/io/hf_config.h"

namespace core {

struct Frequencies {
  at::Tensor inverse;            // [C/2], float32, radians per token
  double attention_scale = 1.0;  // multiplies cos and sin
};

// The frequencies that config.json asks for by rope_theta (10000 when absent) and rope_scaling (none when absent);
// newer files hold both in rope_parameters. Errors: an unknown rope_type by name, missing or impossible numbers.
Frequencies rope_frequencies(const JsonObject& config, int64_t head_width);

// YaRN's factor for attention over a context stretched by `factor`: 0.1 · mscale · ln(factor) + 1.
double yarn_temperature(double factor, double mscale);

}  // namespace core
