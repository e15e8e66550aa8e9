#include "core/nn/attention.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

#include "core/error.h"
#include "core/nn/exp.h"
#include "core/nn/fused.h"
#include "core/team.h"

namespace core {

KvCache::KvCache(int64_t steps, int64_t capacity) : entries_(steps), capacity_(capacity) {
  TORCH_CHECK(steps > 0 && capacity > 0, "KvCache of ", steps, " steps and ", capacity, " tokens");
}

namespace {

// Copies rows, [B, T, K, C], to the tokens from `first` on of all, [B, capacity, K, C].
void put_tokens(const at::Tensor& all, int64_t first, const at::Tensor& rows) {
  if (!can_fuse({rows}) || !all.is_contiguous()) {
    all.narrow(1, first, rows.size(1)).copy_(rows);
    return;
  }
  const int64_t token = rows.size(2) * rows.size(3), count = rows.size(1) * token;
  const auto* from = rows.const_data_ptr<float>();
  auto* to = all.mutable_data_ptr<float>() + first * token;
  for (int64_t b = 0; b < rows.size(0); ++b) std::copy_n(from + b * count, count, to + b * all.stride(0));
}

}  // namespace

KeyValues KvCache::append(int64_t step, const at::Tensor& k, const at::Tensor& v, const KeyValues* prefix) {
  Entry& entry = entries_.at(step);
  const int64_t tokens = k.size(1);
  require(length(step) + tokens <= capacity_,
          "context of {} tokens is full. Generate fewer tokens or shorten the prompt.", capacity_);
  if (!entry.k.defined()) {
    entry.prefix = entry.length = prefix == nullptr ? 0 : prefix->k.size(1);
    entry.k = at::empty({k.size(0), entry.prefix + capacity_, k.size(2), k.size(3)}, k.options());
    entry.v = at::empty({v.size(0), entry.prefix + capacity_, v.size(2), v.size(3)}, v.options());
    if (prefix != nullptr) {
      entry.k.narrow(1, 0, entry.prefix).copy_(prefix->k);
      entry.v.narrow(1, 0, entry.prefix).copy_(prefix->v);
    }
  }
  put_tokens(entry.k, entry.length, k);
  put_tokens(entry.v, entry.length, v);
  entry.length += tokens;
  return {entry.k.narrow(1, 0, entry.length), entry.v.narrow(1, 0, entry.length)};
}

int64_t KvCache::length(int64_t step) const { return entries_.at(step).length - entries_.at(step).prefix; }

namespace {

// Token t of the new ones sees all `past` tokens and the new ones up to itself: [T, past + T], true where visible.
at::Tensor causal_mask(int64_t tokens, int64_t past, at::Device device) {
  return at::ones({tokens, past + tokens}, at::TensorOptions(at::kBool).device(device)).tril_(past);
}

// ---- one token ----

// Keys or values that one head attends to: `width` neighbouring numbers of every token.
struct Past {
  const float* data;
  int64_t stride;  // from one token to the next
  int64_t width;
};

// out [v.width] = softmax(scale · q kᵀ) v over `tokens` tokens, of one head, four tokens at a time. weights: [tokens],
// to work in.
REFRAIN_SIMD void attend_head(const float* q, const Past& k, const Past& v, int64_t tokens, float scale, float* weights,
                              float* out) {
  int64_t t = 0;
  for (; t + 4 <= tokens; t += 4) {
    const float *a = k.data + t * k.stride, *b = a + k.stride, *c = b + k.stride, *d = c + k.stride;
    float sa = 0, sb = 0, sc = 0, sd = 0;
#pragma omp simd reduction(+ : sa, sb, sc, sd)
    for (int64_t i = 0; i < k.width; ++i) {
      sa += q[i] * a[i];
      sb += q[i] * b[i];
      sc += q[i] * c[i];
      sd += q[i] * d[i];
    }
    weights[t] = sa * scale;
    weights[t + 1] = sb * scale;
    weights[t + 2] = sc * scale;
    weights[t + 3] = sd * scale;
  }
  for (; t < tokens; ++t) {
    const float* a = k.data + t * k.stride;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < k.width; ++i) sum += q[i] * a[i];
    weights[t] = sum * scale;
  }
  float largest = -std::numeric_limits<float>::infinity(), sum = 0;
#pragma omp simd reduction(max : largest)
  for (int64_t s = 0; s < tokens; ++s) largest = weights[s] > largest ? weights[s] : largest;
#pragma omp simd reduction(+ : sum)
  for (int64_t s = 0; s < tokens; ++s) {
    weights[s] = exp_for_loops(weights[s] - largest);
    sum += weights[s];
  }
  const float normal = 1 / sum;
#pragma omp simd
  for (int64_t i = 0; i < v.width; ++i) out[i] = 0;
  for (t = 0; t + 4 <= tokens; t += 4) {
    const float *a = v.data + t * v.stride, *b = a + v.stride, *c = b + v.stride, *d = c + v.stride;
    const float wa = weights[t] * normal, wb = weights[t + 1] * normal, wc = weights[t + 2] * normal,
                wd = weights[t + 3] * normal;
#pragma omp simd
    for (int64_t i = 0; i < v.width; ++i) out[i] += wa * a[i] + wb * b[i] + wc * c[i] + wd * d[i];
  }
  for (; t < tokens; ++t) {
    const float* a = v.data + t * v.stride;
    const float weight = weights[t] * normal;
#pragma omp simd
    for (int64_t i = 0; i < v.width; ++i) out[i] += weight * a[i];
  }
}

// Whether the loops above can read keys or values: float32 on the CPU, the numbers of a token side by side.
bool lies_by_token(const at::Tensor& t) {
  return t.is_cpu() && t.scalar_type() == at::kFloat && !needs_gradient(t) && t.stride(3) == 1 &&
         t.stride(2) == t.size(3);
}

// attend() for one token per sequence. q: [R · B, 1, H, C]; k: [B, P, K, C], v: [B, P, K, C'] -> [R · B, 1, H · C'].
at::Tensor attend_one_token(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t batch = q.size(0), heads = q.size(2), width = q.size(3), tokens = k.size(1);
  const int64_t per_key = heads / k.size(2), v_width = v.size(3);
  const at::Tensor out = at::empty({batch, 1, heads * v_width}, q.options());
  const auto* queries = q.const_data_ptr<float>();
  const auto *keys = k.const_data_ptr<float>(), *values = v.const_data_ptr<float>();
  auto* to = out.mutable_data_ptr<float>();
  const auto scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width)));
  share_ranges(batch * heads, 1 + kGrain / (tokens * width), [&](int64_t begin, int64_t end) {
    std::vector<float> weights(tokens);
    for (int64_t row = begin; row < end; ++row) {
      const int64_t b = row / heads % k.size(0), head = row % heads / per_key;
      attend_head(queries + row * width, {keys + b * k.stride(0) + head * width, k.stride(1), width},
                  {values + b * v.stride(0) + head * v_width, v.stride(1), v_width}, tokens, scale, weights.data(),
                  to + row * v_width);
    }
  });
  return out;
}

KeyValues behind(const KeyValues* prefix, const at::Tensor& k, const at::Tensor& v) {
  if (prefix == nullptr) return {k, v};
  const auto joined = [](const at::Tensor& before, const at::Tensor& x) {
    return at::cat({before.expand({x.size(0), -1, -1, -1}), x}, 1);
  };
  return {joined(prefix->k, k), joined(prefix->v, v)};
}

// attend() of a row of spans, one after the other. q: [R, T, H, C]; k: [1, T, K, C], v: [1, T, K, C'].
at::Tensor attend_spans(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Spans& spans,
                        const KeyValues* prefix) {
  std::vector<int64_t> first;
  std::vector<at::Tensor> mixed;
  for (const Span& span : spans) {
    first.push_back(mixed.empty() ? 0 : first.back() + spans[mixed.size() - 1].length);
    const auto seen = [&](const at::Tensor& all, const at::Tensor* before) {
      std::vector<at::Tensor> parts;
      if (before != nullptr) parts.push_back(*before);
      if (span.behind != Span::kText)
        parts.push_back(all.narrow(1, first.at(span.behind), spans.at(span.behind).length));
      parts.push_back(all.narrow(1, first.back(), span.length));
      return at::cat(parts, 1);
    };
    const KeyValues given{seen(k, prefix == nullptr ? nullptr : &prefix->k),
                          seen(v, prefix == nullptr ? nullptr : &prefix->v)};
    mixed.push_back(attend(q.narrow(1, first.back(), span.length), {}, {}, {.given = &given}));
  }
  TORCH_CHECK(first.back() + spans.back().length == q.size(1), "spans of a row of ", q.size(1), " tokens");
  return at::cat(mixed, 1);
}

}  // namespace

at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const Pass& pass,
                  const KeyValues* prefix) {
  const int64_t batch = q.size(0), tokens = q.size(1), heads = q.size(2);
  if (pass.spans != nullptr) {
    TORCH_CHECK(pass.cache == nullptr, "a row of spans has no cache");
    const KeyValues all = pass.given != nullptr ? *pass.given : KeyValues{k, v};
    if (pass.kept != nullptr) *pass.kept = all;
    return attend_spans(q, all.k, all.v, *pass.spans, prefix);
  }

  // 1. Keys and values of the past, if any, come before those of these tokens.
  auto [all_k, all_v] = pass.given != nullptr   ? *pass.given
                        : pass.cache != nullptr ? pass.cache->append(pass.step, k, v, prefix)
                                                : behind(prefix, k, v);
  TORCH_CHECK(heads % all_k.size(2) == 0, heads, " query heads on ", all_k.size(2), " key heads");
  if (pass.kept != nullptr) *pass.kept = {all_k, all_v};
  if (tokens == 1 && can_fuse({q}) && lies_by_token(all_k) && lies_by_token(all_v))
    return attend_one_token(q, all_k, all_v);
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
