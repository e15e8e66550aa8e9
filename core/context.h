// Decoding: a model that has read some tokens and goes on from there. What it has read stays as keys and values, so a
// further token costs one token.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

#include "core/model.h"

namespace core {

// Throws UserError unless the model's context holds `tokens`. where: of the message, e.g. "--tokens".
void require_context(const Shape& shape, int64_t tokens, const std::string& where);

// B sequences of equal length. The blocks of the model are loaded, and stay so while the context lives.
class Context {
 public:
  // capacity: tokens that it can hold at most; UserError when that is more than the model's context.
  Context(Model& model, int64_t capacity);

  // Reads the next tokens. ids: [B, T] int64, B the same in every call. Returns the logits behind the last: [B, V].
  // UserError when the context is full.
  at::Tensor read(const at::Tensor& ids);

  int64_t length() const { return length_; }  // tokens read so far
  int64_t capacity() const { return cache_.capacity(); }

 private:
  Model& model_;
  KvCache cache_;
  int64_t length_ = 0;
};

// The likeliest token of each row: [B, V] -> [B, 1] int64.
at::Tensor likeliest(const at::Tensor& logits);

// Reads the prompts and goes on greedily: [B, T] int64 -> the `tokens` tokens behind each prompt, [B, tokens] int64 on
// the CPU. The prompts must fit with them.
at::Tensor continue_greedily(Context& context, const at::Tensor& prompts, int64_t tokens);

}  // namespace core
