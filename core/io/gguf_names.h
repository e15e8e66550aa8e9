// The names of tensors in GGUF files and in Hugging Face folders. Used by gguf_tensors.cpp, which reads, and by what
// writes GGUF files.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>

#include "core/io/gguf_architecture.h"

namespace core {

// The tensors of a block: blk.3.<ours> is model.layers.3.<theirs>, but for experts, of which one tensor holds all.
struct GgufTensorName {
  const char* ours;
  const char* theirs;
  GgufPart part = always;

  bool is_of(const GgufArchitecture& architecture) const { return (part & (architecture.parts | always)) != 0; }
};
inline constexpr std::array kGgufBlockTensors{
    GgufTensorName{"attn_norm", "input_layernorm"},
    GgufTensorName{"ffn_norm", "post_attention_layernorm"},
    GgufTensorName{"attn_q", "self_attn.q_proj"},
    GgufTensorName{"attn_k", "self_attn.k_proj"},
    GgufTensorName{"attn_v", "self_attn.v_proj"},
    GgufTensorName{"attn_output", "self_attn.o_proj"},
    GgufTensorName{"ffn_gate", "mlp.gate_proj"},
    GgufTensorName{"ffn_up", "mlp.up_proj"},
    GgufTensorName{"ffn_down", "mlp.down_proj"},
    GgufTensorName{"attn_q_norm", "self_attn.q_norm", head_norms},
    GgufTensorName{"attn_k_norm", "self_attn.k_norm", head_norms},
    GgufTensorName{"ffn_gate_inp", "mlp.gate", mixture},
    GgufTensorName{"ffn_gate_exps", "gate_proj", mixture},
    GgufTensorName{"ffn_up_exps", "up_proj", mixture},
    GgufTensorName{"ffn_down_exps", "down_proj", mixture},
    GgufTensorName{"ffn_gate_shexp", "gate_proj", shared_experts},
    GgufTensorName{"ffn_up_shexp", "up_proj", shared_experts},
    GgufTensorName{"ffn_down_shexp", "down_proj", shared_experts},
    GgufTensorName{"ffn_gate_inp_shexp", "mlp.shared_expert_gate", shared_experts},
    GgufTensorName{"attn_q_a", "self_attn.q_a_proj", latent},
    GgufTensorName{"attn_q_a_norm", "self_attn.q_a_layernorm", latent},
    GgufTensorName{"attn_q_b", "self_attn.q_b_proj", latent},
    GgufTensorName{"attn_kv_a_mqa", "self_attn.kv_a_proj_with_mqa", latent},
    GgufTensorName{"attn_kv_a_norm", "self_attn.kv_a_layernorm", latent},
    GgufTensorName{"attn_kv_b", "self_attn.kv_b_proj", latent},
    GgufTensorName{"attn_k_b", "self_attn.kv_b_proj", latent},
    GgufTensorName{"attn_v_b", "self_attn.kv_b_proj", latent},
};

// The row of the file that is row `row` of q_proj or k_proj where an architecture interleaves them: a head's first half
// holds the even ones, its second half the odd ones.
int64_t interleaved_row(int64_t row, int64_t head_width);

// Where a tensor of a Hugging Face folder stands in a GGUF file.
struct GgufPlace {
  std::string tensor;
  int64_t expert = -1;          // of the stacked tensor; -1: the tensor is no expert's
  bool is_interleaved = false;  // its rows stand in the order of interleaved_row
};

// None: the architecture has no such tensor.
std::optional<GgufPlace> gguf_place(const GgufArchitecture& architecture, const std::string& name);

}  // namespace core
