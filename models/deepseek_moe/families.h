// The families of DeepSeek; each file reads its config keys and assembles its blocks, from top to bottom.
#pragma once

#include <memory>

#include "core/io/hf_config.h"
#include "models/block.h"
#include "models/decoder_keys.h"
#include "models/moe.h"

namespace models {

std::shared_ptr<core::Model> build_deepseek(const core::JsonObject& config);
std::shared_ptr<core::Model> build_deepseek_v2(const core::JsonObject& config);

// The first layers, first_k_dense_replace of them, are dense; of the others every moe_layer_freq-th is a mixture of
// n_routed_experts, with n_shared_experts that see every token. keys: spellings of n_routed_experts; without any of
// them all layers are dense.
MakeFeedForward deepseek_feed_forward(const core::JsonObject& config, const core::Shape& shape, const ExpertKeys& keys);

}  // namespace models
