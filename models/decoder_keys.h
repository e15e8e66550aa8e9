// The keys of config.json that every decoder family has in common, read once and checked against each other.
#pragma once

#include "core/io/hf_config.h"
#include "core/model.h"
#include "models/moe.h"

namespace models {

// Reads model_type, hidden_size, num_hidden_layers, vocab_size, num_attention_heads, num_key_value_heads (absent: one
// per head), head_dim (absent: `head_width`, or hidden_size / num_attention_heads if that is 0),
// max_position_embeddings, rms_norm_eps (1e-6) and tie_word_embeddings (false). Errors: missing, not positive, heads
// that do not divide, another activation than silu.
core::Shape read_shape(const core::JsonObject& config, int64_t head_width = 0);

// Refuses a sliding window that would act: a sliding_attention in layer_types, or use_sliding_window with a window and
// layers from max_window_layers on.
void refuse_sliding_window(const core::JsonObject& config, const core::Shape& shape);

// Refuses more experts per token than there are; `key` holds how many there are.
void check_top_k(const core::JsonObject& config, const MoeShape& moe, const char* key);

}  // namespace models
