// Qwen3, dense (Yang 2025, arXiv 2505.09388): queries and keys are normalized per head before they are rotated.
#include <ATen/ATen.h>

#include <array>

#include "core/nn/rotary.h"
#include "models/decoder_keys.h"
#include "models/qwen/block.h"
#include "models/qwen/families.h"

namespace models {

namespace {

using core::Pass;
using core::RmsNorm;
using core::Shape;

struct Config {
  Shape shape;
  int64_t ffn;                                 // F
  bool attention_bias;                         // of q, k, v and o
  std::shared_ptr<const core::Rotary> rotary;  // one for all blocks
};

Config read_config(const core::JsonObject& json) {
  const Shape shape = read_shape(json, /*head_width=*/128);  // head_dim is its own key: H · C need not be D
  refuse_sliding_window(json, shape);
  return {.shape = shape,
          .ffn = json.positive("intermediate_size"),
          .attention_bias = json.boolean("attention_bias", false),
          .rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, shape.head_width))};
}

class Qwen3Attention : public Attention {
 public:
  Qwen3Attention(const std::string& path, const Config& config)
      : Attention(path, config.shape, config.attention_bias, config.attention_bias),
        head_width_(config.shape.head_width),
        rotary_(config.rotary) {
    const auto norm = [&](const char* name) {
      return register_module(name, std::make_shared<RmsNorm>(path + "." + name, head_width_, config.shape.norm_eps));
    };
    q_norm_ = norm("q_norm");
    k_norm_ = norm("k_norm");
  }

  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    const std::array<int64_t, 4> per_head{x.size(0), x.size(1), -1, head_width_};
    // 1. project, one row per head; normalize each, rotate it by its position
    at::Tensor q = q_proj->forward(x).view(per_head);  // [B, T, H, C]
    q = rotary_->apply(q_norm_->forward(q), pass.position);
    // 2. likewise keys and values, unless those of another step are attended to
    at::Tensor k, v;  // [B, T, K, C]
    if (pass.given == nullptr) {
      k = k_proj->forward(x).view(per_head);
      k = rotary_->apply(k_norm_->forward(k), pass.position);
      v = v_proj->forward(x).view(per_head);
    }
    // 3. attend, mix the heads
    return o_proj->forward(core::attend(q, k, v, pass));  // [B, T, H · C] -> [B, T, D]
  }

 private:
  int64_t head_width_;
  std::shared_ptr<const core::Rotary> rotary_;
  std::shared_ptr<RmsNorm> q_norm_;  // [C]
  std::shared_ptr<RmsNorm> k_norm_;  // [C]
};

}  // namespace

std::shared_ptr<core::Model> build_qwen3(const core::JsonObject& json) {
  const Config config = read_config(json);
  return std::make_shared<core::Model>(config.shape, [config](const std::string& path) {
    return std::make_shared<DecoderBlock>(
        path, config.shape, std::make_shared<Qwen3Attention>(path + ".self_attn", config),
        std::make_shared<Mlp>(path + ".mlp", config.shape.width, config.ffn, /*has_bias=*/false));
  });
}

}  // namespace models
