// Qwen3 (Yang 2025, arXiv 2505.09388), dense and as a mixture of experts: queries and keys are normalized per head
// before they are rotated. The mixture has no shared experts.
#include "models/block.h"
#include "models/decoder_keys.h"
#include "models/qwen/families.h"

namespace models {

namespace {

core::Shape shape_of(const core::JsonObject& json) {
  return read_shape(json, /*head_width=*/128);  // head_dim is its own key: H · C need not be D
}

std::shared_ptr<core::Model> assemble_qwen3(const core::JsonObject& json, const core::Shape& shape,
                                            MakeFeedForward mlp) {
  refuse_sliding_window(json, shape);
  const bool bias = json.boolean("attention_bias", false);  // of q, k, v and o
  const auto rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width));
  return assemble(
      shape,
      [=](const std::string& path) {
        return std::make_shared<GroupedQueryAttention>(
            path, shape, rotary, GroupedQueryAttention::Options{.qkv_bias = bias, .o_bias = bias, .head_norms = true});
      },
      std::move(mlp));
}

}  // namespace

std::shared_ptr<core::Model> build_qwen3(const core::JsonObject& json) {
  const core::Shape shape = shape_of(json);
  const int64_t ffn = json.positive("intermediate_size");
  return assemble_qwen3(json, shape, [=](const std::string& path, int64_t) {
    return std::make_shared<Mlp>(path, shape.width, ffn, /*has_bias=*/false);
  });
}

std::shared_ptr<core::Model> build_qwen3_moe(const core::JsonObject& json) {
  const core::Shape shape = shape_of(json);
  // transformers writes num_local_experts since 5.8
  const MoeShape moe = read_qwen_moe(json, shape, {"num_local_experts", "num_experts", "n_routed_experts"});
  return assemble_qwen3(json, shape, qwen_feed_forward(json, shape, moe));
}

}  // namespace models
