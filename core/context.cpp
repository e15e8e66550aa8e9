#include "core/context.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/nn/fused.h"

namespace core {

void require_context(const Shape& shape, int64_t tokens, const std::string& where) {
  require(tokens <= shape.context,
          "{}: {} tokens are more than the context of the model, which holds {}. Shorten the prompt or ask for fewer.",
          where, tokens, shape.context);
}

namespace {

int64_t checked(const Model& model, int64_t capacity) {
  require_context(model.shape(), capacity, "context");
  return capacity;
}

}  // namespace

Context::Context(Model& model, int64_t capacity)
    : model_(model), cache_(static_cast<int64_t>(model.plan().size()), checked(model, capacity)) {}

at::Tensor Context::read(const at::Tensor& ids) {
  TORCH_CHECK(ids.dim() == 2 && ids.size(1) > 0, "Context::read: ids are [B, T], not ", ids.sizes());
  require(length_ + ids.size(1) <= capacity(),
          "context of {} tokens is full. Generate fewer tokens or shorten the prompt.", capacity());
  const at::NoGradGuard no_gradient;
  const at::Tensor hidden = model_.states(ids.to(model_.embedding().device()), &cache_);  // [B, T, D]
  length_ += ids.size(1);
  return model_.logits(hidden.select(1, -1));  // the head for one position only: [B, D] -> [B, V]
}

namespace {

// The index of the largest of n values; -1: one is not a number.
REFRAIN_SIMD int64_t index_of_largest(const float* x, int64_t n) {
  float largest = -std::numeric_limits<float>::infinity();
  int32_t strange = 0;
#pragma omp simd reduction(max : largest) reduction(| : strange)
  for (int64_t i = 0; i < n; ++i) {
    largest = x[i] > largest ? x[i] : largest;
    strange |= x[i] != x[i] ? 1 : 0;
  }
  return strange != 0 ? -1 : std::find(x, x + n, largest) - x;
}

}  // namespace

at::Tensor likeliest(const at::Tensor& logits) {
  if (can_fuse({logits}) && logits.dim() == 2 && logits.size(0) == 1) {
    const int64_t index = index_of_largest(logits.const_data_ptr<float>(), logits.size(1));
    if (index >= 0) return at::full({1, 1}, index, at::kLong);
  }
  return logits.argmax(-1, /*keepdim=*/true);
}

at::Tensor continue_greedily(Context& context, const at::Tensor& prompts, int64_t tokens) {
  at::Tensor all = at::empty({prompts.size(0), tokens}, at::kLong);
  at::Tensor next = prompts;
  for (int64_t t = 0; t < tokens; ++t) {
    honour_interrupt();
    next = likeliest(context.read(next));  // [B, 1]
    all.narrow(1, t, 1).copy_(next);
  }
  return all;
}

}  // namespace core
