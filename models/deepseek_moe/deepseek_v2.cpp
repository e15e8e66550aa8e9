// DeepSeek-V2 in the form of V2-Lite (DeepSeek-AI 2024, arXiv 2405.04434): multi-head latent attention before the
// mixture of the first version, greedy routing. What group-limited routing and float8 need is refused by name.
#include <ATen/ATen.h>

#include <optional>

#include "core/error.h"
#include "core/nn/rope_types.h"
#include "models/decoder_keys.h"
#include "models/deepseek_moe/families.h"

namespace models {

namespace {

using core::LinearGroup;
using core::Pass;
using core::RmsNorm;
using core::Role;
using core::Shape;
using core::Slot;

struct Config {
  Shape shape;
  int64_t q_rank;                              // of the latent of the queries; 0: they have none
  int64_t kv_rank;                             // of the latent of keys and values
  int64_t plain, rotated, value;               // widths of a head: of keys without and with position, of values
  bool bias;                                   // of the projections from and to D
  double temperature;                          // factor on q kᵀ / sqrt(C), of yarn
  std::shared_ptr<const core::Rotary> rotary;  // one for all blocks

  int64_t heads() const { return shape.heads; }
  int64_t key() const { return plain + rotated; }
};

// The factor that the model's own code puts on the softmax when yarn stretches its context.
double temperature_of(const core::JsonObject& json) {
  const std::optional<core::JsonObject> keys = core::rope_keys(json);
  if (!keys || core::rope_type(*keys) == "default") return 1;
  const double all_dim = keys->number("mscale_all_dim", 0);
  if (all_dim == 0) return 1;
  const double m = core::yarn_temperature(keys->number("factor"), all_dim);
  return m * m;
}

Config read_config(const core::JsonObject& json) {
  Config config{.shape = read_shape(json, /*head_width=*/1),
                .q_rank = json.has("q_lora_rank") ? json.positive("q_lora_rank") : 0,
                .kv_rank = json.positive("kv_lora_rank"),
                .plain = json.positive("qk_nope_head_dim"),
                .rotated = json.positive("qk_rope_head_dim"),
                .value = json.positive("v_head_dim"),
                .bias = json.boolean("attention_bias", false),
                .temperature = temperature_of(json),
                .rotary = {}};
  json.require_value("topk_method", "greedy");
  core::require(config.shape.kv_heads == config.shape.heads,
                "{}: num_key_value_heads is {}, but latent attention makes keys for each of {} heads. Use the "
                "config.json of the original model.",
                json.where(), config.shape.kv_heads, config.shape.heads);
  config.rotary = std::make_shared<core::Rotary>(core::Rotary::from_config(json, config.rotated));
  config.shape.head_width = (config.key() + config.value) / 2;  // of what is kept of a token, keys and values alike
  return config;
}

// Keys and values of all heads come from one latent of `kv_rank` per token; the part of the keys that is rotated is
// shared by the heads.
class LatentAttention : public Attention {
 public:
  LatentAttention(const std::string& path, const Config& config)
      : Attention(path, config.heads(), config.key(), config.value), config_(config) {
    const int64_t D = config.shape.width, H = config.heads();
    const auto slot = [&](const char* name, Role role, int64_t outputs, int64_t inputs, bool has_bias) {
      return register_module(name, std::make_shared<Slot>(path + "." + name, role, outputs, inputs, has_bias));
    };
    const auto norm = [&](const char* name, int64_t width) {
      return register_module(name, std::make_shared<RmsNorm>(path + "." + name, width, /*eps=*/1e-6));
    };
    if (config.q_rank == 0) {
      q_proj_ = slot("q_proj", Role::q_proj, H * config.key(), D, false);
    } else {
      q_a_proj_ = slot("q_a_proj", Role::q_a_proj, config.q_rank, D, config.bias);
      q_a_layernorm_ = norm("q_a_layernorm", config.q_rank);
      q_proj_ = slot("q_b_proj", Role::q_b_proj, H * config.key(), config.q_rank, false);
    }
    kv_a_proj_ = slot("kv_a_proj_with_mqa", Role::kv_a_proj, config.kv_rank + config.rotated, D, config.bias);
    kv_a_layernorm_ = norm("kv_a_layernorm", config.kv_rank);
    kv_b_proj_ = slot("kv_b_proj", Role::kv_b_proj, H * (config.plain + config.value), config.kv_rank, false);
    o_proj_ = slot("o_proj", Role::o_proj, D, H * config.value, config.bias);
  }

  at::Tensor forward(const at::Tensor& x, const Pass& pass) override {
    const int64_t H = config_.heads();
    // 1. queries, one row per head; the last columns are rotated
    const at::Tensor latent = q_a_proj_ == nullptr ? x : q_a_layernorm_->forward(q_a_proj_->forward(x));
    const at::Tensor heads = q_proj_->forward(latent).unflatten(-1, {H, config_.key()});
    const at::Tensor q = at::cat({heads.narrow(-1, 0, config_.plain), rotated(heads, config_.plain, pass)}, -1);
    // 2. keys and values, unless those of another step are attended to
    at::Tensor k, v;  // [B, T, H, plain + rotated], [B, T, H, value]
    if (pass.given == nullptr) {
      const at::Tensor compressed = kv_a_proj_->forward(x);                               // [B, T, kv_rank + rotated]
      const at::Tensor shared = rotated(compressed.unsqueeze(2), config_.kv_rank, pass);  // [B, T, 1, rotated]
      const at::Tensor own = kv_b_proj_->forward(kv_a_layernorm_->forward(compressed.narrow(-1, 0, config_.kv_rank)))
                                 .unflatten(-1, {H, config_.plain + config_.value});
      k = at::cat({own.narrow(-1, 0, config_.plain), shared.expand({-1, -1, H, -1})}, -1);
      v = own.narrow(-1, config_.plain, config_.value);
    }
    // 3. attend, mix the heads
    return o_proj_->forward(
        core::attend(config_.temperature == 1 ? q : q * config_.temperature, k, v, pass, prefix().get()));
  }

  std::vector<LinearGroup> groups(RmsNorm& norm) override {
    Slot* from_width = q_a_proj_ == nullptr ? q_proj_.get() : q_a_proj_.get();
    std::vector<LinearGroup> all{{.slots = {from_width, kv_a_proj_.get()},
                                  .producer = {.norm = &norm},
                                  .parent = [this](const at::Tensor& x) { return forward(x, Pass{}); }}};
    if (q_a_proj_ != nullptr)
      all.push_back({.slots = {q_proj_.get()}, .producer = {.norm = q_a_layernorm_.get()}, .parent = {}});
    all.push_back({.slots = {kv_b_proj_.get()}, .producer = {.norm = kv_a_layernorm_.get()}, .parent = {}});
    all.push_back({.slots = {o_proj_.get()}, .producer = {}, .parent = {}});
    return all;
  }

 private:
  // The `rotated` columns from `first` on, rotated. The file has the two numbers of a pair side by side, Rotary has
  // them half a width apart; the order does not matter to q kᵀ.
  at::Tensor rotated(const at::Tensor& heads, int64_t first, const Pass& pass) const {
    const at::Tensor pairs = heads.narrow(-1, first, config_.rotated).unflatten(-1, {config_.rotated / 2, 2});
    return turned(*config_.rotary, pairs.transpose(-1, -2).flatten(-2).contiguous(), pass);
  }

  Config config_;
  std::shared_ptr<Slot> q_a_proj_, q_proj_;  // [q_rank, D] or null; [H (plain + rotated), q_rank or D]
  std::shared_ptr<RmsNorm> q_a_layernorm_;   // [q_rank]
  std::shared_ptr<Slot> kv_a_proj_;          // [kv_rank + rotated, D]
  std::shared_ptr<RmsNorm> kv_a_layernorm_;  // [kv_rank]
  std::shared_ptr<Slot> kv_b_proj_;          // [H (plain + value), kv_rank]
  std::shared_ptr<Slot> o_proj_;             // [D, H value]
};

}  // namespace

std::shared_ptr<core::Model> build_deepseek_v2(const core::JsonObject& json) {
  const Config config = read_config(json);
  return assemble(
      config.shape, [=](const std::string& path) { return std::make_shared<LatentAttention>(path, config); },
      deepseek_feed_forward(json, config.shape, {"num_experts", "n_routed_experts", "num_local_experts"}));
}

}  // namespace models
