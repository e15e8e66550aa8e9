// What a module keeps: every stored tensor has a kind. Codes and integer zeros are buffers; scales, offsets, tables,
// norms are float parameters, frozen until training asks for them by kind. Dense linear weights are never trained.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace core {

enum class Kind {
  weight,      // dense matrix of a linear, frozen
  bias,        // of a linear, frozen
  embedding,   // token table
  norm,        // RMSNorm weight
  codes,       // packed codes, a buffer
  zero_codes,  // packed integer zero points, a buffer
  scale,
  zero_point,   // float zero point
  scale_codes,  // packed integer scales, relative to a float scale; a buffer
  offset,       // shift of all levels, in steps
  table,        // levels of a codebook
  activation_scale,
  activation_zero_point,  // both of a linear's inputs, found on calibration text
  low_rank,               // factor of a low-rank branch
  row_scale,              // factors of a matrix of scales: of its rows,
  column_scale,           // and of its columns
  gate,                   // factor on a residual branch
  token_gate,             // logits of a mixture, per input feature
  minimum,                // lowest level of a group, stored in place of a zero point
  prefix,                 // keys or values of the tokens in front of every text
};

// Whether tensors of this kind are small unsigned integers, as opposed to float parameters.
constexpr bool is_codes(Kind kind) {
  return kind == Kind::codes || kind == Kind::zero_codes || kind == Kind::scale_codes;
}

const char* name_of(Kind kind);

// One stored tensor. `name` is the Hugging Face path of its module plus the tensor's own name. The handle shares
// storage with the module, so writing through it changes the model.
struct State {
  std::string name;
  at::Tensor tensor;
  Kind kind;
};

// What a module costs; summed over modules it is the bill that stands beside every result.
struct Cost {
  int64_t weights = 0;         // original weights that this module stands for
  int64_t code_bits = 0;       // bits of stored codes; dense: 0
  int64_t parameter_bits = 0;  // bits of everything else that quantization stores: scales, zeros, tables
  int64_t dense_bits = 0;      // bits of what is stored unquantized: weights, biases, norms, embeddings
  int64_t macs = 0;            // multiply-accumulates per token
  int64_t bytes_read = 0;      // bytes of weights and parameters read per token

  Cost& operator+=(const Cost& other);
  Cost running() const;  // what using the module once more costs, without what storing it costs
};

}  // namespace core
