// Qwen2 and Qwen2.5, dense (Yang 2024, arXiv 2407.10671): queries, keys and values always have biases, o_proj never.
#include <ATen/ATen.h>

#include <array>

#include "core/nn/rotary.h"
#include "models/decoder_keys.h"
#include "models/qwen/block.h"
#include "models/qwen/families.h"

namespace models {

namespace {

using core::Pass;
using core::Shape;

struct Config {
  Shape shape;
  int64_t ffn;                                 // F
  std::shared_ptr<const core::Rotary> rotary;  // one for all blocks
};

Config read_config(const core::JsonObject& json) {
  const Shape shape = read_shape(json);
  refuse_sliding_window(json, shape);
  return {.shape = shape,
          .ffn = json.positive("intermediate_size"),
          .rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width))};
}

class Qwen2Attention : public Attention {
 public:
  Qwen2Attention(const std::string& path, const Config& config)
      : Attention(path, config.shape, /*qkv_bias=*/true, /*o_bias=*/false),
        head_width_(config.shape.head_width),
        rotary_(config.rotary) {}

  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    const std::array<int64_t, 4> per_head{x.size(0), x.size(1), -1, head_width_};
    // 1. project, one row per head; rotate each by its position
    at::Tensor q = q_proj->forward(x).view(per_head);  // [B, T, H, C]
    q = rotary_->apply(q, pass.position);
    // 2. likewise keys and values, unless those of another step are attended to
    at::Tensor k, v;  // [B, T, K, C]
    if (pass.given == nullptr) {
      k = k_proj->forward(x).view(per_head);
      k = rotary_->apply(k, pass.position);
      v = v_proj->forward(x).view(per_head);
    }
    // 3. attend, mix the heads
    return o_proj->forward(core::attend(q, k, v, pass));  // [B, T, H · C] -> [B, T, D]
  }

 private:
  int64_t head_width_;
  std::shared_ptr<const core::Rotary> rotary_;
};

}  // namespace

std::shared_ptr<core::Model> build_qwen2(const core::JsonObject& json) {
  const Config config = read_config(json);
  return std::make_shared<core::Model>(config.shape, [config](const std::string& path) {
    return std::make_shared<DecoderBlock>(
        path, config.shape, std::make_shared<Qwen2Attention>(path + ".self_attn", config),
        std::make_shared<Mlp>(path + ".mlp", config.shape.width, config.ffn, /*has_bias=*/false));
  });
}

}  // namespace models
