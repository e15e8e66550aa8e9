// The keys of config.json that every decoder family has in common, read once and checked against each other.
#pragma once

#include <vector>

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

// The spellings of the number of experts, in the order in which a family prefers them.
using ExpertKeys = std::vector<const char*>;

// Whether config.json has any of these keys.
bool has_experts(const core::JsonObject& config, const ExpertKeys& keys);

// Reads the number of experts and num_experts_per_tok. Where several keys disagree the first one holds, with a warning.
// Error: more experts per token than there are.
void read_experts(const core::JsonObject& config, const ExpertKeys& keys, MoeShape& moe);

}  // namespace models
