// Quantized linears in the formats of other quantizers, whose codes lie as ours do: code j of a row in bits b j … of a
// stream of 32-bit words, lowest bits first.
//
//   gptq (GPTQModel, checkpoint_format gptq_v2)   w = s (q − z)
//     qweight [I b / 32, O] I32: word k of the stream of output o; qzeros [G, O b / 32] I32: of the zeros of a group;
//     scales [G, O] F16; g_idx [I] I32: the group of an input
//   compressed_tensors (pack-quantized)           w = s (q' − z') with q' = q − 2^(b−1), z' = z − 2^(b−1), stored as q,
//   z
//     weight_packed [O, I b / 32] I32; weight_scale [O, G] F16; weight_shape [2] I64; not symmetric: weight_zero_point
//     [O b / 32, G] I32, packed along the outputs
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

#include "quant/linear/quantized_linear.h"

namespace exports {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;  // names behind the path of the linear

// What all quantized linears of a model must share, and what decides whether they can be written.
struct PackedGrid {
  int64_t bits, group_size;  // -1: the whole row
  bool symmetric;            // all zero points are 2^(b − 1)

  bool operator==(const PackedGrid&) const = default;
};

// The grid of a module; a text: why it is none of these formats.
PackedGrid packed_grid(const quant::WeightConfig& weight);
std::string not_packed(const quant::WeightConfig& weight);

NamedTensors gptq_tensors(const quant::QuantizedLinear& linear);
NamedTensors compressed_tensors(const quant::QuantizedLinear& linear);

}  // namespace exports
