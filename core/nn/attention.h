// Causal grouped-query attention and its key/value cache.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "core/nn/half.h"

namespace core {

// What a token attends to: [B, P + T, K, C], the past of the cache included.
struct KeyValues {
  at::Tensor k, v;
};

// Keys and values of the steps of a plan, for decoding token by token. One entry per plan step: a block that a plan
// runs twice has two caches.
class KvCache {
 public:
  KvCache(int64_t steps, int64_t capacity);  // capacity: tokens

  // Appends k, v: [B, T, K, C] of `step` and returns all keys and values so far: [B, P + T, K, C]. prefix: what stands
  // before the first token, [1, P', K, C], or null; the same in every call.
  KeyValues append(int64_t step, const at::Tensor& k, const at::Tensor& v, const KeyValues* prefix = nullptr);
  int64_t length(int64_t step) const;  // tokens held by a step, without the prefix
  int64_t capacity() const { return capacity_; }

 private:
  struct Entry {
    at::Tensor k, v;  // [B, P' + capacity, K, C]
    int64_t prefix = 0, length = 0;
  };
  std::vector<Entry> entries_;
  int64_t capacity_;
};

// A sequence in a row of several: a text of its own, or what continues one.
struct Span {
  static constexpr int64_t kText = -1;
  int64_t length;          // tokens
  int64_t behind = kText;  // index of an earlier span of the row, a text, that it continues
};
// The spans of a row of tokens, one after the other. A token sees the tokens before it in its span and the text that
// the span continues, and nothing else: several continuations of one text cost the text once.
using Spans = std::vector<Span>;

// What a forward pass carries besides hidden states. Default: a full pass from position 0 without cache. Nothing is
// owned.
struct Pass {
  int64_t step = 0;              // index in the plan
  int64_t position = 0;          // of the first token, behind the prefix
  const Spans* spans = nullptr;  // of the one row of tokens; null: a row is one sequence
  KvCache* cache = nullptr;
  const KeyValues* given = nullptr;  // of another step: this one attends to them and computes none
  KeyValues* kept = nullptr;         // where this step leaves what it attends to
  Half only = Half::none;            // the half of the block that runs; none: both
  bool all_experts = false;  // every token runs through every expert of a mixture; the outputs are those of the routed
  // Experts of the tokens of a mixture, [N, k] int64: a pass that finds none leaves its router's choice here, one that
  // finds some sends the tokens to them.
  at::Tensor* experts = nullptr;
};

// softmax(q kᵀ / sqrt(C) + causal mask) v. q: [B, T, H, C]; k: [B, T, K, C], v: [B, T, K, C'] of the same tokens, K
// divides H; the prefix, if there is one, and keys of the pass's cache come before them. Where the pass is given those
// of another step, k and v are not read. Of a row of spans, each attends to its own and to those that it continues.
// Queries of R replicas, [R · B, T, H, C], all attend to the same keys. Returns [B, T, H · C'] or [R · B, T, H · C'].
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pass& pass,
                  const KeyValues* prefix = nullptr);

}  // namespace core
