#include <algorithm>

#include "models/decoder_keys.h"
#include "models/qwen/families.h"

namespace models {

MoeShape read_qwen_moe(const core::JsonObject& json, const core::Shape& shape, const ExpertKeys& keys) {
  MoeShape moe{.width = shape.width,
               .ffn = json.positive("moe_intermediate_size"),
               .normalize = json.boolean("norm_topk_prob", false)};
  read_experts(json, keys, moe);
  return moe;
}

MakeFeedForward qwen_feed_forward(const core::JsonObject& json, const core::Shape& shape, const MoeShape& moe) {
  const int64_t ffn = json.positive("intermediate_size"), step = json.positive("decoder_sparse_step", 1);
  const std::vector<int64_t> dense = json.integers("mlp_only_layers");
  return [=](const std::string& path, int64_t layer) -> std::shared_ptr<FeedForward> {
    const bool mixed = (layer + 1) % step == 0 && std::count(dense.begin(), dense.end(), layer) == 0;
    if (mixed) return std::make_shared<Moe>(path, moe);
    return std::make_shared<Mlp>(path, shape.width, ffn, /*has_bias=*/false);
  };
}

}  // namespace models
