#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/io/gguf_architecture.h"
#include "core/io/gguf_model.h"
#include "core/io/json_text.h"

namespace core {
namespace {

using nlohmann::json;

std::string in_block(int64_t block, const std::string& name) { return fmt::format("blk.{}.{}", block, name); }

// rope_scaling; null: none. head_width: of what is rotated.
json rope_scaling(const Gguf& file, const GgufKeys& keys, int64_t head_width) {
  if (file.find("rope_freqs.weight") != nullptr) {
    const GgufTensor& factors = needed_tensor(file, "rope_freqs.weight", 1);
    require(factors.shape[0] == head_width / 2 && factors.type->decode != nullptr,
            "{}: rope_freqs.weight has {} factors, but {} pairs are rotated. Convert the model again.", file.where(),
            factors.shape[0], head_width / 2);
    std::vector<float> values(static_cast<size_t>(factors.shape[0]));
    factors.type->decode(factors.data, factors.shape[0] / factors.type->block, values.data());
    return {{"rope_type", "factors"}, {"factors", values}};
  }
  const std::string type = keys.text("rope.scaling.type", "linear");  // as llama.cpp takes a factor without a type
  const double factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 1));
  if (type == "none" || (type == "linear" && (factor == 1 || factor == 0))) return nullptr;
  if (type == "linear") return {{"rope_type", "linear"}, {"factor", factor}};
  if (type != "yarn") keys.refuse("rope.scaling.type", "`" + printable(type) + "`");
  json scaling{{"rope_type", "yarn"}, {"factor", factor}};
  const auto put = [&](const char* key, const char* theirs) {
    if (keys.has(key)) scaling[theirs] = keys.number(key);
  };
  if (keys.has("rope.scaling.original_context_length"))
    scaling["original_max_position_embeddings"] = keys.count("rope.scaling.original_context_length");
  put("rope.scaling.yarn_beta_fast", "beta_fast");
  put("rope.scaling.yarn_beta_slow", "beta_slow");
  put("rope.scaling.attn_factor", "attention_factor");
  if (keys.has("rope.scaling.yarn_log_multiplier")) {  // 0.1 · mscale_all_dim; the models have mscale equal to it
    scaling["mscale"] = scaling["mscale_all_dim"] = 10 * keys.number("rope.scaling.yarn_log_multiplier");
  }
  return scaling;
}

// Widths of heads and what is rotated of them.
void add_heads(const Gguf& file, const GgufKeys& keys, int64_t width, json& config) {
  const int64_t heads = keys.count("attention.head_count");
  const int64_t key = keys.count("attention.key_length", std::max<int64_t>(width / heads, 1));
  const int64_t value = keys.count("attention.value_length", key);
  config["num_attention_heads"] = heads;
  int64_t rotated = key;
  if ((keys.architecture.parts & latent) != 0) {
    const int64_t whole = keys.count("attention.key_length_mla", key);
    rotated = keys.count("rope.dimension_count");
    if (rotated >= whole) keys.refuse("rope.dimension_count", "rotated keys as wide as all keys");
    config["num_key_value_heads"] = heads;
    if (keys.has("attention.q_lora_rank")) config["q_lora_rank"] = keys.count("attention.q_lora_rank");
    config["kv_lora_rank"] = keys.count("attention.kv_lora_rank");
    config["qk_nope_head_dim"] = whole - rotated;
    config["qk_rope_head_dim"] = rotated;
    config["v_head_dim"] = keys.count("attention.value_length_mla", value);
  } else {
    config["num_key_value_heads"] = keys.count("attention.head_count_kv", heads);
    config["head_dim"] = key;
    if (value != key) keys.refuse("attention.value_length", "values of another width than keys");
    if (keys.count("rope.dimension_count", key) != key) keys.refuse("rope.dimension_count", "partly rotated heads");
  }
  config["rope_theta"] = keys.number("rope.freq_base", 10000);
  if (json scaling = rope_scaling(file, keys, rotated); !scaling.is_null()) config["rope_scaling"] = std::move(scaling);
}

void add_mixture(const Gguf& file, const GgufKeys& keys, json& config) {
  const int64_t blocks = config["num_hidden_layers"];
  std::vector<int64_t> dense;  // blocks without experts
  const GgufTensor* experts = nullptr;
  const GgufTensor* shared = nullptr;
  for (int64_t block = 0; block < blocks; ++block) {
    if (file.find(in_block(block, "ffn_gate_inp.weight")) == nullptr) {
      dense.push_back(block);
    } else if (experts == nullptr) {
      experts = &needed_tensor(file, in_block(block, "ffn_up_exps.weight"), 3);
      shared = file.find(in_block(block, "ffn_up_shexp.weight"));
    }
  }
  if (experts == nullptr) return;
  const bool deepseek = keys.architecture.experts_key == std::string_view("n_routed_experts");
  config[keys.architecture.experts_key] = keys.count("expert_count");
  config["num_experts_per_tok"] = keys.count("expert_used_count");
  config["moe_intermediate_size"] = keys.count("expert_feed_forward_length", experts->shape[1]);
  const bool normalizes = keys.architecture.model_type == std::string_view("qwen3_moe");
  config["norm_topk_prob"] = keys.boolean("expert_weights_norm", normalizes);
  if (!config.contains("intermediate_size")) config["intermediate_size"] = config["moe_intermediate_size"];
  if (!deepseek) {
    config["decoder_sparse_step"] = 1;
    config["mlp_only_layers"] = dense;
    if (shared != nullptr) config["shared_expert_intermediate_size"] = shared->shape[0];
    return;
  }
  config["first_k_dense_replace"] = static_cast<int64_t>(dense.size());
  for (size_t i = 0; i < dense.size(); ++i) {
    if (dense[i] != static_cast<int64_t>(i)) keys.refuse("block_count", "dense blocks behind blocks of experts");
  }
  config["moe_layer_freq"] = 1;
  config["n_shared_experts"] = shared == nullptr ? 0 : keys.count("expert_shared_count");
  const double scale = keys.number("expert_weights_scale", 1);
  config["routed_scaling_factor"] = scale == 0 ? 1 : scale;
  const bool softmax = !keys.has("expert_gating_func") || keys.count("expert_gating_func") == 1;
  config["scoring_func"] = softmax ? "softmax" : "sigmoid";
  if (keys.has("expert_group_count") && keys.number("expert_group_count") > 1)
    config["topk_method"] = "group_limited_greedy";
}

void add_special_tokens(const Gguf& file, json& config) {
  for (const char* which : {"bos", "eos"}) {
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", which);
    if (file.has(key)) config[fmt::format("{}_token_id", which)] = file.integer(key);
  }
}

}  // namespace

std::string gguf_config(const Gguf& file) {
  const GgufKeys keys(file);
  const GgufTensor& embedding = needed_tensor(file, "token_embd.weight", 2);
  const int64_t width = keys.count("embedding_length");
  json config{{"model_type", keys.architecture.model_type},
              {"hidden_act", "silu"},
              {"hidden_size", width},
              {"num_hidden_layers", keys.count("block_count")},
              {"vocab_size", embedding.shape[0]},
              {"max_position_embeddings", keys.count("context_length")},
              {"rms_norm_eps", keys.number("attention.layer_norm_rms_epsilon")},
              {"tie_word_embeddings", file.find("output.weight") == nullptr},
              {"attention_bias", file.find("blk.0.attn_q.bias") != nullptr},
              {"mlp_bias", file.find("blk.0.ffn_up.bias") != nullptr}};
  if (keys.has("feed_forward_length")) config["intermediate_size"] = keys.count("feed_forward_length");
  if (keys.has("attention.sliding_window") && keys.number("attention.sliding_window") > 0)
    keys.refuse("attention.sliding_window", "a sliding window");
  add_heads(file, keys, width, config);
  if ((keys.architecture.parts & mixture) != 0) {
    add_mixture(file, keys, config);
  } else if (keys.number("expert_count", 0) > 0) {
    keys.refuse("expert_count", "a mixture of experts");
  }
  add_special_tokens(file, config);
  return config.dump(2) + "\n";
}

}  // namespace core
