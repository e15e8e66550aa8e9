// Llama 2 and 3 (Touvron 2023, arXiv 2307.09288; Dubey 2024, arXiv 2407.21783) and models of their format.
#include "models/block.h"
#include "models/decoder_keys.h"
#include "models/mlp.h"
#include "models/qwen/families.h"

namespace models {

std::shared_ptr<core::Model> build_llama(const core::JsonObject& json) {
  const core::Shape shape = read_shape(json);
  refuse_sliding_window(json, shape);
  const int64_t ffn = json.positive("intermediate_size");
  const bool attention_bias = json.boolean("attention_bias", false);  // of q, k, v and o
  const bool mlp_bias = json.boolean("mlp_bias", false);              // of gate, up and down
  const auto rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width));
  return assemble(
      shape,
      [=](const std::string& path) {
        return std::make_shared<GroupedQueryAttention>(
            path, shape, rotary, GroupedQueryAttention::Options{.qkv_bias = attention_bias, .o_bias = attention_bias});
      },
      [=](const std::string& path, int64_t) { return std::make_shared<Mlp>(path, shape.width, ffn, mlp_bias); });
}

}  // namespace models
