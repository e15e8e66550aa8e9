// Mean squares of inputs as an importance matrix of llama.cpp has them (GGUF, tools/imatrix/imatrix.cpp): of every
// tensor NAME of a GGUF model NAME.in_sum2 [experts or 1, I], sums over tokens, and NAME.counts, how many tokens.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "core/io/gguf.h"
#include "core/nn/slot.h"

namespace quant {

class ImportanceMatrix {
 public:
  // Errors: no GGUF file, or another kind of one.
  explicit ImportanceMatrix(const std::string& file);

  // Of the inputs of a linear of the blocks, [I] float32. An expert that no token reached has the mean of the others,
  // which is said once. family: model_type of config.json. Errors: the linear is not in the file, or has other inputs
  // there; a number that is no mean square.
  at::Tensor mean_square(const std::string& family, const core::Slot& slot) const;

 private:
  at::Tensor floats(const std::string& tensor, int64_t columns) const;  // [n, columns]

  core::Gguf file_;
};

}  // namespace quant
