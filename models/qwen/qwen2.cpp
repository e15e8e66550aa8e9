// Qwen2 and Qwen2.5 (Yang 2024, arXiv 2407.10671), dense and as a mixture of experts: queries, keys and values have
// biases (of the mixture unless qkv_bias is false), o_proj never. The mixture has shared experts behind a gate.
#include "models/block.h"
#include "models/decoder_keys.h"
#include "models/qwen/families.h"

namespace models {

namespace {

std::shared_ptr<core::Model> assemble_qwen2(const core::JsonObject& json, const core::Shape& shape, bool qkv_bias,
                                            MakeFeedForward mlp) {
  refuse_sliding_window(json, shape);
  const auto rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width));
  return assemble(
      shape,
      [=](const std::string& path) {
        return std::make_shared<GroupedQueryAttention>(path, shape, rotary,
                                                       GroupedQueryAttention::Options{.qkv_bias = qkv_bias});
      },
      std::move(mlp));
}

}  // namespace

std::shared_ptr<core::Model> build_qwen2(const core::JsonObject& json) {
  const core::Shape shape = read_shape(json);
  const int64_t ffn = json.positive("intermediate_size");
  return assemble_qwen2(json, shape, /*qkv_bias=*/true, [=](const std::string& path, int64_t) {
    return std::make_shared<Mlp>(path, shape.width, ffn, /*has_bias=*/false);
  });
}

std::shared_ptr<core::Model> build_qwen2_moe(const core::JsonObject& json) {
  const core::Shape shape = read_shape(json);
  MoeShape moe = read_qwen_moe(json, shape, {"num_experts", "num_local_experts", "n_routed_experts"});
  moe.shared_ffn = json.positive("shared_expert_intermediate_size", 5632);
  moe.shared_name = "shared_expert";
  moe.shared_gate = true;
  return assemble_qwen2(json, shape, json.boolean("qkv_bias", true), qwen_feed_forward(json, shape, moe));
}

}  // namespace models
