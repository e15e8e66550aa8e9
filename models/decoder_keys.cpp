#include "models/decoder_keys.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/warn_once.h"

namespace models {

constexpr int64_t kMostLayers = 10000;  // more than any model has, and few enough to be built

core::Shape read_shape(const core::JsonObject& config, int64_t head_width) {
  core::Shape shape;
  shape.family = config.text("model_type");
  shape.layers = config.positive("num_hidden_layers");
  core::require(shape.layers <= kMostLayers, "{}: num_hidden_layers is {}, more than {}. Check it.", config.where(),
                shape.layers, kMostLayers);
  shape.width = config.positive("hidden_size");
  shape.vocabulary = config.positive("vocab_size");
  shape.heads = config.positive("num_attention_heads");
  shape.kv_heads = config.positive("num_key_value_heads", shape.heads);
  shape.context = config.positive("max_position_embeddings");
  shape.norm_eps = config.number("rms_norm_eps", 1e-6);
  shape.tied = config.boolean("tie_word_embeddings", false);
  config.require_value("hidden_act", "silu");
  core::require(shape.heads % shape.kv_heads == 0,
                "{}: {} attention heads cannot share {} key/value heads evenly. Check num_key_value_heads.",
                config.where(), shape.heads, shape.kv_heads);
  if (head_width == 0 && !config.has("head_dim")) {
    core::require(shape.width % shape.heads == 0,
                  "{}: hidden_size {} is not a multiple of {} attention heads. Set head_dim.", config.where(),
                  shape.width, shape.heads);
    head_width = shape.width / shape.heads;
  }
  shape.head_width = config.positive("head_dim", head_width);
  core::require(shape.norm_eps >= 0,
                "{}: rms_norm_eps is {}, must not be negative. Use the config.json of the original model.",
                config.where(), shape.norm_eps);
  return shape;
}

void refuse_sliding_window(const core::JsonObject& config, const core::Shape& shape) {
  constexpr const char* kAdvice = "Use a model with full attention in every layer.";
  for (const std::string& type : config.texts("layer_types")) {
    core::require(type == "full_attention", "{}: layer_types has {}, which is not implemented. {}", config.where(),
                  type, kAdvice);
  }
  const bool listed = config.has("layer_types");  // then it alone decides
  const int64_t window = config.boolean("use_sliding_window", false) ? config.integer("sliding_window", 0) : 0;
  const bool acts = !listed && window > 0 && config.integer("max_window_layers", 0) < shape.layers;
  core::require(!acts, "{}: use_sliding_window with sliding_window {} is not implemented. {}", config.where(), window,
                kAdvice);
}

bool has_experts(const core::JsonObject& config, const ExpertKeys& keys) {
  return std::any_of(keys.begin(), keys.end(), [&](const char* key) { return config.has(key); });
}

void read_experts(const core::JsonObject& config, const ExpertKeys& keys, MoeShape& moe) {
  const auto found = std::find_if(keys.begin(), keys.end(), [&](const char* key) { return config.has(key); });
  const char* key = found == keys.end() ? "num_experts" : *found;
  moe.experts = config.positive(key);
  moe.top_k = config.positive("num_experts_per_tok");
  for (const char* other : keys) {
    if (config.has(other) && config.integer(other) != moe.experts) {
      core::warn_once(fmt::format("{}: {} is {}, but {} is {}. {} is used, as transformers does.", config.where(), key,
                                  moe.experts, other, config.integer(other), key));
    }
  }
  core::require(moe.top_k <= moe.experts,
                "{}: num_experts_per_tok is {}, but {} is {}. Use the config.json of the "
                "original model.",
                config.where(), moe.top_k, key, moe.experts);
}

}  // namespace models
