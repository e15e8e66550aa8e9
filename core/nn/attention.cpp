#include "core/nn/attention.h"

#include <ATen/ATen.h>

#include <optional>
#include <tuple>

#include "core/error.h"

namespace core {

KvCache::KvCache(int64_t steps, int64_t capacity) : entries_(steps), capacity_(capacity) {
  TORCH_CHECK(steps > 0 && capacity > 0, "KvCache of ", steps, " steps and ", capacity, " tokens");
}

std::pair<at::Tensor, at::Tensor> KvCache::append(int64_t step, const at::Tensor& k, const at::Tensor& v) {
  Entry& entry = entries_.at(step);
  const int64_t tokens = k.size(1);
  require(entry.length + tokens <= capacity_,
          "context of {} tokens is full. Generate fewer tokens or shorten the prompt.", capacity_);
  if (!entry.k.defined()) {
    entry.k = at::empty({k.size(0), capacity_, k.size(2), k.size(3)}, k.options());
    entry.v = at::empty({v.size(0), capacity_, v.size(2), v.size(3)}, v.options());
  }
  entry.k.narrow(1, entry.length, tokens).copy_(k);
  entry.v.narrow(1, entry.length, tokens).copy_(v);
  entry.length += tokens;
  return {entry.k.narrow(1, 0, entry.length), entry.v.narrow(1, 0, entry.length)};
}

int64_t KvCache::length(int64_t step) const { return entries_.at(step).length; }

namespace {

// Token t of the new ones sees all `past` tokens and the new ones up to itself: [T, past + T], true where visible.
at::Tensor causal_mask(int64_t tokens, int64_t past, at::Device device) {
  return at::ones({tokens, past + tokens}, at::TensorOptions(at::kBool).device(device)).tril_(past);
}

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pass& pass) {
  const int64_t batch = q.size(0), tokens = q.size(1), heads = q.size(2);

  // 1. Keys and values of the past, if any, come before those of these tokens.
  auto [all_k, all_v] = pass.given != nullptr   ? std::pair{pass.given->k, pass.given->v}
                        : pass.cache != nullptr ? pass.cache->append(pass.step, k, v)
                                                : std::pair{k, v};
  TORCH_CHECK(heads % all_k.size(2) == 0, heads, " query heads on ", all_k.size(2), " key heads");
  if (pass.kept != nullptr) *pass.kept = {all_k, all_v};
  if (const int64_t replicas = batch / all_k.size(0); replicas > 1) {
    const auto for_each = [&](const at::Tensor& t) {
      return t.unsqueeze(0).expand({replicas, -1, -1, -1, -1}).flatten(0, 1);
    };
    std::tie(all_k, all_v) = std::pair{for_each(all_k), for_each(all_v)};
  }
  const int64_t past = all_k.size(1) - tokens;

  // 2. One token sees everything; a pass from position 0 is plainly causal; otherwise the mask is written out.
  const bool causal = past == 0 && tokens > 1;
  std::optional<at::Tensor> mask;
  if (past > 0 && tokens > 1) mask = causal_mask(tokens, past, q.device());

  // 3. [B, T, H, C] -> [B, H, T, C] and back; the scale is 1 / sqrt(C).
  const at::Tensor mixed =
      at::scaled_dot_product_attention(q.transpose(1, 2), all_k.transpose(1, 2), all_v.transpose(1, 2), mask,
                                       /*dropout_p=*/0.0, causal, /*scale=*/std::nullopt,
                                       /*enable_gqa=*/heads != all_k.size(2));
  return mixed.transpose(1, 2).reshape({batch, tokens, -1});
}

}  // namespace core
