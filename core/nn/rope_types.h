// The published ways of stretching rotary embeddings to contexts longer than the one trained on. Each turns the keys of
// `rope_scaling` into inverse frequencies and a factor for cos and sin.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <string>

#include "core/io/hf_config.h"

namespace core {

struct Frequencies {
  at::Tensor inverse;            // [C/2], float32, radians per token
  double attention_scale = 1.0;  // multiplies cos and sin
};

// The object of config.json that holds the rotary keys: rope_scaling if there are any in it, else rope_parameters of
// newer files. Of keys that are given per type of layer those of full_attention. Null: config.json has no such object.
// Warns where two objects disagree; which one holds is the choice of transformers.
std::optional<JsonObject> rope_keys(const JsonObject& config);

// rope_type of such an object, in older files `type`; "default" where it has neither. Warns where the two disagree.
std::string rope_type(const JsonObject& keys);

// The frequencies that config.json asks for by rope_theta (10000 when absent) and rope_keys (none: they are not
// stretched). Errors: an unknown rope_type by name, missing or impossible numbers.
Frequencies rope_frequencies(const JsonObject& config, int64_t head_width);

// YaRN's factor for attention over a context stretched by `factor`: 0.1 · mscale · ln(factor) + 1.
double yarn_temperature(double factor, double mscale);

}  // namespace core
