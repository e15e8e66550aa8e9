// What a model's logits say about the tokens that came: the loss that perplexity is made of.
#pragma once

#include <ATen/core/Tensor.h>

namespace core {

// -log softmax(logits)[target] per row, nats. logits: [T, V], target: [T] int64 in [0, V). Returns [T] float32.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target);

// The same in tensor operations: the definition, the gradient, and the path of other devices and dtypes.
at::Tensor cross_entropy_reference(const at::Tensor& logits, const at::Tensor& target);

}  // namespace core
