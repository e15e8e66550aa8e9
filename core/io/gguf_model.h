// A GGUF file seen as the Hugging Face folder that it was converted from: its keys as a config.json, its tensors under
// the names and with the rows that the families in models/ ask for.
//
// Architectures: llama, qwen2, qwen3, qwen2moe, qwen3moe, deepseek, deepseek2. What differs from the folder, by
// llama.cpp's converter: rows of q and k of llama and deepseek are interleaved for its rotary embedding, experts are
// stacked in one tensor, kv_b of deepseek2 may be split into k_b, transposed head by head, and v_b, a tied head is left
// out, and Llama 3's stretched frequencies are stored as a factor per pair (rope_freqs.weight).
#pragma once

#include <memory>
#include <string>

#include "core/io/gguf.h"
#include "core/io/tensor_source.h"

namespace core {

// The text of config.json. Errors: another architecture; what our families do not compute, by key.
std::string gguf_config(const Gguf& file);

// The tensors, decoded to float32 when they are asked for. Errors: a tensor that the architecture does not have, by
// name; shapes that do not fit the keys.
std::shared_ptr<const TensorSource> gguf_tensors(const Gguf& file);

}  // namespace core
