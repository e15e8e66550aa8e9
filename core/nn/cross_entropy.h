// What a model's logits say about the tokens that came, and how far they are from another model's: the loss that
// perplexity is made of, the KL divergence, and whether both models put the same token first.
#pragma once

#include <ATen/core/Tensor.h>

namespace core {

// -log softmax(logits)[target] per row, nats. logits: [T, V], target: [T] int64 in [0, V). Returns [T] float32.
at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target);

// The same in tensor operations: the definition, the gradient, and the path of other devices and dtypes.
at::Tensor cross_entropy_reference(const at::Tensor& logits, const at::Tensor& target);

// Per row of logits, [T] each.
struct Divergence {
  at::Tensor nll;          // cross_entropy of `logits`, bit for bit; nats
  at::Tensor kl;           // Σ p ln(p / q), p = softmax(full), q = softmax(logits); nats, float32; 0 for equal rows
  at::Tensor same_top;     // whether the largest logit of both rows is the same (the first of equal ones); bool
  at::Tensor full_top;     // the largest of p; float32
  at::Tensor full_target;  // p of the target; float32
};

// full, logits: [T, V]; target: [T] int64 in [0, V).
Divergence divergence(const at::Tensor& full, const at::Tensor& logits, const at::Tensor& target);

// The same in tensor operations: the definition, and the path of other devices and dtypes.
Divergence divergence_reference(const at::Tensor& full, const at::Tensor& logits, const at::Tensor& target);

}  // namespace core
