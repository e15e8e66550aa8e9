// A sidecar: what a model has beside a GGUF file that other programs run, in a second GGUF file
// (docs/gguf_extension.md): sets of parameters of replicas, gates, codes that no type of theirs holds. Both together
// are the model that was measured.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/io/gguf.h"
#include "core/io/tensor_source.h"

namespace core {

inline constexpr int kSidecarVersion = 1;

bool is_sidecar(const Gguf& file);

// The file with the configuration, the tokenizer and the tensors of the model at `path`: itself, or what a sidecar
// stands beside. Errors: the base is missing, or is a sidecar itself.
Gguf open_base(const std::string& path);

// Of names, types, shapes and the first and last bytes of all tensors: whether a base is the one that a sidecar was
// written beside.
std::string hash_of_base(const Gguf& base);

// The tensors of both, under the names of our checkpoints (export/checkpoint.h). Errors: keys that do not belong
// together; a tensor of the base that is not as the sidecar says.
std::shared_ptr<const TensorSource> sidecar_tensors(const Gguf& sidecar);

// "model.layers.3.replica1.mlp.up_proj.scale" -> "refrain.blk.3.r1.mlp.up_proj.scale". Error: longer than the 63
// letters that llama.cpp reads.
std::string sidecar_name(const std::string& tensor);

// How the codes c of a tensor of the base follow from ours: c = factor k + offset.
struct CodeMap {
  int32_t factor = 1, offset = 0;
  bool operator==(const CodeMap&) const = default;
};

// Tensors of the base that hold codes of ours, as keys say it.
struct CodesInBase {
  std::string tensor;  // "blk.3.ffn_up.weight"
  int32_t bits = 0;    // of our codes
  CodeMap map;
};

}  // namespace core
