#include "export/gguf/model_keys.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/nn/rope_types.h"

namespace exports {

namespace {

using core::GgufArchitecture;
using core::JsonObject;

bool is_mixture(core::Model& model, int64_t block) { return model.block(block).mixture() != nullptr; }

// Blocks before the first mixture.
int64_t leading_dense_blocks(core::Model& model, const Blocks& blocks) {
  const auto first =
      std::find_if(blocks.begin(), blocks.end(), [&](int64_t block) { return is_mixture(model, block); });
  return first - blocks.begin();
}

std::string scaling_type(const std::optional<JsonObject>& rope) { return rope ? core::rope_type(*rope) : "default"; }

// Whether llama.cpp multiplies a token's experts by weights that sum to 1.
bool normalizes(const GgufArchitecture& architecture, const JsonObject& config) {
  if (architecture.name == std::string_view("deepseek2")) return config.boolean("norm_topk_prob", false);
  return architecture.name == std::string_view("qwen3moe");
}

int64_t rotated_width(const GgufArchitecture& architecture, const JsonObject& config, const core::Shape& shape) {
  return architecture.has(core::latent) ? config.positive("qk_rope_head_dim") : shape.head_width;
}

double theta(const JsonObject& config, const std::optional<JsonObject>& rope) {
  const double own = config.number("rope_theta", 10000);
  return rope ? rope->number("rope_theta", own) : own;
}

}  // namespace

std::vector<std::string> not_in_llama_cpp(const GgufArchitecture& architecture, const JsonObject& config,
                                          core::Model& model, const Blocks& blocks) {
  std::vector<std::string> reasons;
  const auto refuse = [&](bool differs, std::string why) {
    if (differs) reasons.push_back(fmt::format("llama.cpp's {} {}", architecture.name, std::move(why)));
  };
  const bool any_bias = config.boolean("attention_bias", false) || config.boolean("mlp_bias", false);
  refuse(any_bias && architecture.name != std::string_view("llama"), "has no such biases (attention_bias, mlp_bias)");
  refuse(architecture.name == std::string_view("qwen2moe") && !config.boolean("qkv_bias", true),
         "has biases of queries, keys and values (qkv_bias: false)");
  const core::Shape& shape = model.shape();
  const bool qwen2 = std::string_view(architecture.name).starts_with("qwen2");
  refuse(qwen2 && shape.heads * shape.head_width != shape.width, "has heads that are together as wide as the model");
  const int64_t layers = std::ssize(blocks);
  constexpr int64_t kMostBlocks = 512;  // llama-hparams.h, LLAMA_MAX_LAYERS
  refuse(layers > kMostBlocks, fmt::format("has at most {} blocks, not {}", kMostBlocks, layers));
  refuse(architecture.has(core::latent) && !config.has("q_lora_rank") && layers != 26 && layers != 27,
         "takes models of 26 and 27 blocks alone for those without q_lora_rank");
  if (architecture.has(core::mixture)) {
    const int64_t leading = leading_dense_blocks(model, blocks);
    const bool mixed =
        !std::all_of(blocks.begin() + leading, blocks.end(), [&](int64_t block) { return is_mixture(model, block); });
    const bool deepseek = architecture.experts_key == std::string_view("n_routed_experts");
    refuse(mixed, "has no dense blocks behind mixtures");
    refuse(!deepseek && leading > 0, "has a mixture in every block");
    const bool normalized = config.boolean("norm_topk_prob", false);
    refuse(normalized != normalizes(architecture, config),
           fmt::format("{} the weights of a token's experts (norm_topk_prob: {})",
                       normalized ? "does not normalize" : "normalizes", normalized));
  }
  const auto rope = core::rope_keys(config);
  if (scaling_type(rope) == "yarn") {
    const double mscale = rope->number("mscale", 0), all_dim = rope->number("mscale_all_dim", 0);
    refuse(rope->has("attention_factor"), "has no attention_factor of its own for yarn");
    refuse(!rope->boolean("truncate", true), "rounds the range of yarn (truncate: false)");
    refuse(mscale != all_dim, "has one mscale for yarn (mscale and mscale_all_dim differ)");
  }
  return reasons;
}

core::GgufKeyValues model_keys(const GgufArchitecture& architecture, const JsonObject& config, core::Model& model,
                               const Blocks& blocks) {
  core::GgufKeyValues keys;
  const core::Shape& shape = model.shape();
  const auto put = [&](const char* key, core::GgufData value) {
    keys.emplace_back(fmt::format("{}.{}", architecture.name, key), std::move(value));
  };
  const auto count = [&](const char* key, int64_t value) { put(key, static_cast<uint32_t>(value)); };
  const auto number = [&](const char* key, double value) { put(key, static_cast<float>(value)); };
  count("block_count", std::ssize(blocks));
  count("context_length", shape.context);
  count("embedding_length", shape.width);
  count("feed_forward_length", config.positive("intermediate_size"));
  count("vocab_size", shape.vocabulary);
  count("attention.head_count", shape.heads);
  count("attention.head_count_kv", shape.kv_heads);
  number("attention.layer_norm_rms_epsilon", shape.norm_eps);
  if (architecture.has(core::latent)) {
    // Keys and values unsplit, attn_kv_b as the folder has it: without the widths of the compressed form.
    if (config.has("q_lora_rank")) count("attention.q_lora_rank", config.positive("q_lora_rank"));
    count("attention.kv_lora_rank", config.positive("kv_lora_rank"));
    count("attention.key_length", config.positive("qk_nope_head_dim") + config.positive("qk_rope_head_dim"));
    count("attention.value_length", config.positive("v_head_dim"));
  } else {
    count("attention.key_length", shape.head_width);
    count("attention.value_length", shape.head_width);
  }
  count("rope.dimension_count", rotated_width(architecture, config, shape));
  const auto rope = core::rope_keys(config);
  number("rope.freq_base", theta(config, rope));
  const std::string type = scaling_type(rope);
  if (type == "linear" || type == "yarn") {
    put("rope.scaling.type", type);
    number("rope.scaling.factor", rope->number("factor"));
  }
  if (type == "yarn") {
    count("rope.scaling.original_context_length", rope->positive("original_max_position_embeddings", shape.context));
    if (rope->has("beta_fast")) number("rope.scaling.yarn_beta_fast", rope->number("beta_fast"));
    if (rope->has("beta_slow")) number("rope.scaling.yarn_beta_slow", rope->number("beta_slow"));
    if (rope->number("mscale_all_dim", 0) != 0)
      number("rope.scaling.yarn_log_multiplier", 0.1 * rope->number("mscale_all_dim"));
  }
  if (!architecture.has(core::mixture)) return keys;
  const int64_t leading = leading_dense_blocks(model, blocks);
  core::Mixture& mixture = *model.block(blocks.at(static_cast<size_t>(leading))).mixture();
  count("expert_count", mixture.experts());
  count("expert_used_count", config.positive("num_experts_per_tok"));
  const int64_t width = config.positive("moe_intermediate_size");
  count("expert_feed_forward_length", width);
  if (architecture.experts_key == std::string_view("num_experts")) {
    if (architecture.has(core::shared_experts))
      count("expert_shared_feed_forward_length", config.positive("shared_expert_intermediate_size", 5632));
    return keys;
  }
  const bool normalized = normalizes(architecture, config);
  count("expert_shared_count", config.integer("n_shared_experts", 0));
  count("leading_dense_block_count", leading);
  number("expert_weights_scale", normalized ? 1 : config.number("routed_scaling_factor", 1));
  put("expert_weights_norm", normalized);
  count("expert_gating_func", 1);  // softmax
  return keys;
}

std::vector<float> rope_factors(const JsonObject& config, const core::Shape& shape) {
  const auto rope = core::rope_keys(config);
  const std::string type = scaling_type(rope);
  if (type != "llama3" && type != "factors") return {};
  if (type == "factors") {
    const std::vector<double> given = rope->numbers("factors");
    return {given.begin(), given.end()};
  }
  const at::Tensor stretched = core::rope_frequencies(config, shape.head_width).inverse;
  const at::Tensor plain = at::pow(theta(config, rope), at::arange(0, shape.head_width, 2, at::kFloat) /
                                                            static_cast<double>(shape.head_width))
                               .reciprocal();
  const at::Tensor factors = (plain / stretched).contiguous();
  return {factors.const_data_ptr<float>(), factors.const_data_ptr<float>() + factors.numel()};
}

}  // namespace exports
