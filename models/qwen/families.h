// The families; each file reads its config keys and assembles its blocks, from top to bottom.
#pragma once

#include <memory>

#include "core/io/hf_config.h"
#include "models/block.h"
#include "models/decoder_keys.h"
#include "models/moe.h"

namespace models {

std::shared_ptr<core::Model> build_llama(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen2(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen2_moe(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen3(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen3_moe(const core::JsonObject& config);

// What the mixtures of Qwen have in common: the number of experts, num_experts_per_tok, moe_intermediate_size,
// norm_topk_prob.
MoeShape read_qwen_moe(const core::JsonObject& config, const core::Shape& shape, const ExpertKeys& keys);
// Every decoder_sparse_step-th layer is a mixture, unless mlp_only_layers names it; the others are dense.
MakeFeedForward qwen_feed_forward(const core::JsonObject& config, const core::Shape& shape, const MoeShape& moe);

}  // namespace models
