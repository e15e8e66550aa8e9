// DeepSeekMoE, first version (Dai 2024, arXiv 2401.06066): the attention of Llama, a softmax router whose weights are
// not normalized unless the configuration says so.
#include "core/error.h"
#include "models/decoder_keys.h"
#include "models/deepseek_moe/families.h"

namespace models {

MakeFeedForward deepseek_feed_forward(const core::JsonObject& json, const core::Shape& shape, const ExpertKeys& keys) {
  const int64_t ffn = json.positive("intermediate_size");
  const bool bias = json.boolean("mlp_bias", false);
  json.require_value("scoring_func", "softmax");
  const auto dense = [=](const std::string& path) { return std::make_shared<Mlp>(path, shape.width, ffn, bias); };
  if (!has_experts(json, keys)) return [=](const std::string& path, int64_t) { return dense(path); };
  MoeShape moe{.width = shape.width,
               .ffn = json.positive("moe_intermediate_size"),
               .normalize = json.boolean("norm_topk_prob", false),
               .has_bias = bias,
               .shared_name = "shared_experts"};
  if (!moe.normalize) moe.scaling = json.number("routed_scaling_factor", 1.0);
  moe.shared_ffn = json.integer("n_shared_experts", 0) * moe.ffn;
  read_experts(json, keys, moe);
  const int64_t first = json.integer("first_k_dense_replace", 0), step = json.positive("moe_layer_freq", 1);
  core::require(first >= 0 && moe.shared_ffn >= 0,
                "{}: first_k_dense_replace and n_shared_experts are counts. Use the "
                "config.json of the original model.",
                json.where());
  return [=](const std::string& path, int64_t layer) -> std::shared_ptr<FeedForward> {
    if (layer >= first && layer % step == 0) return std::make_shared<Moe>(path, moe);
    return dense(path);
  };
}

std::shared_ptr<core::Model> build_deepseek(const core::JsonObject& json) {
  const core::Shape shape = read_shape(json);
  const bool bias = json.boolean("attention_bias", false);  // of q, k, v and o
  const auto rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width));
  return assemble(
      shape,
      [=](const std::string& path) {
        return std::make_shared<GroupedQueryAttention>(
            path, shape, rotary, GroupedQueryAttention::Options{.qkv_bias = bias, .o_bias = bias});
      },
      deepseek_feed_forward(json, shape, {"n_routed_experts", "num_experts", "num_local_experts"}));
}

}  // namespace models
