#include "core/nn/cross_entropy.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>

#include "core/nn/exp.h"
#include "core/nn/fused.h"

namespace core {

namespace {

constexpr int64_t kPiece = 4096;  // terms summed in float32 before they join a double

// log Σ exp(x) = top + log_sum.
struct LogSumExp {
  float top;
  double log_sum;
  double value() const { return top + log_sum; }
};

// x is read twice and never written. NaN stays NaN.
REFRAIN_SIMD LogSumExp log_sum_exp(const float* x, int64_t count) {
  float top = x[0];
#pragma omp simd reduction(max : top)
  for (int64_t i = 0; i < count; ++i) top = x[i] > top ? x[i] : top;
  double sum = 0;
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t last = std::min(first + kPiece, count);
    float piece = 0;
#pragma omp simd reduction(+ : piece)
    for (int64_t i = first; i < last; ++i) piece += exp_for_loops(x[i] - top);
    sum += piece;
  }
  return {top, std::log(sum)};
}

// The weighted sums of one row of two models, weights w = exp(p − top of p).
struct Weighted {
  double sum = 0, weights = 0;
  double mean() const { return sum / weights; }
};

// Of δ = p − q, less the difference of the two largest values, so that a common shift of all logits costs no digits.
REFRAIN_SIMD Weighted differences(const float* p, float top_p, const float* q, float top_q, int64_t count) {
  const float shift = top_p - top_q;
  Weighted all;
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t last = std::min(first + kPiece, count);
    float sum = 0, weights = 0;
#pragma omp simd reduction(+ : sum, weights)
    for (int64_t i = first; i < last; ++i) {
      const float w = exp_for_loops(p[i] - top_p);
      sum += w * ((p[i] - q[i]) - shift);
      weights += w;
    }
    all.sum += sum;
    all.weights += weights;
  }
  return all;
}

// Of exp(−d) − 1 + d, which is never negative, d = δ − middle. Near 0 by its series (the next term is below 4e-8 of
// it).
REFRAIN_SIMD double excess(const float* p, float top_p, const float* q, float top_q, float middle, int64_t count) {
  const float shift = top_p - top_q;
  double all = 0;
  for (int64_t first = 0; first < count; first += kPiece) {
    const int64_t last = std::min(first + kPiece, count);
    float piece = 0;
#pragma omp simd reduction(+ : piece)
    for (int64_t i = first; i < last; ++i) {
      const float w = exp_for_loops(p[i] - top_p), d = ((p[i] - q[i]) - shift) - middle;
      float series = 1.0f / 40320;
      series = series * d - 1.0f / 5040;
      series = series * d + 1.0f / 720;
      series = series * d - 1.0f / 120;
      series = series * d + 1.0f / 24;
      series = series * d - 1.0f / 6;
      series = series * d + 0.5f;
      const float near = w * d * d * series;
      const float far = exp_for_loops((q[i] - top_q) + middle) - w + w * d;
      piece += d > -0.5f && d < 0.5f ? near : far;
    }
    all += piece;
  }
  return all;
}

struct RowDistance {
  double kl;
  double weights;  // Σ exp(p − top of p): 1 / the largest probability of softmax p
};

// KL(softmax p ‖ softmax q) = E[δ] + ln E[exp(−δ)] = ln(1 + E[exp(−d) − 1 + d]) with d = δ − E[δ], expectations under
// softmax p. Only positive terms are summed, so that small divergences keep their digits; 0 for equal rows.
RowDistance distance_of(const float* p, float top_p, const float* q, float top_q, int64_t count) {
  const Weighted first = differences(p, top_p, q, top_q, count);
  const auto middle = static_cast<float>(first.mean());
  return {std::log1p(excess(p, top_p, q, top_q, middle, count) / first.weights), first.weights};
}

int64_t first_of(const float* x, int64_t count, float value) { return std::find(x, x + count, value) - x; }

at::Tensor cross_entropy_fused(const at::Tensor& logits, const at::Tensor& target) {
  const int64_t rows = logits.size(0), width = logits.size(1);
  at::Tensor loss = at::empty({rows}, logits.options());
  const auto* x = logits.const_data_ptr<float>();
  const auto* wanted = target.const_data_ptr<int64_t>();
  auto* to = loss.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1 + kGrain / width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      TORCH_CHECK(wanted[row] >= 0 && wanted[row] < width, "cross_entropy: token ", wanted[row], " of ", width);
      to[row] = static_cast<float>(log_sum_exp(x + row * width, width).value() - x[row * width + wanted[row]]);
    }
  });
  return loss;
}

// One pass over the rows of both: a row is in the cache from its first reading to its last.
Divergence divergence_fused(const at::Tensor& full, const at::Tensor& logits, const at::Tensor& target) {
  const int64_t rows = logits.size(0), width = logits.size(1);
  Divergence result{at::empty({rows}, logits.options()), at::empty({rows}, logits.options()),
                    at::empty({rows}, logits.options().dtype(at::kBool)), at::empty({rows}, logits.options()),
                    at::empty({rows}, logits.options())};
  const auto *of_full = full.const_data_ptr<float>(), *of_logits = logits.const_data_ptr<float>();
  const auto* wanted = target.const_data_ptr<int64_t>();
  auto *nll = result.nll.mutable_data_ptr<float>(), *kl = result.kl.mutable_data_ptr<float>();
  auto* same = result.same_top.mutable_data_ptr<bool>();
  auto *top = result.full_top.mutable_data_ptr<float>(), *of_target = result.full_target.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1 + kGrain / width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      TORCH_CHECK(wanted[row] >= 0 && wanted[row] < width, "divergence: token ", wanted[row], " of ", width);
      const float *p = of_full + row * width, *q = of_logits + row * width;
      const LogSumExp of_q = log_sum_exp(q, width);
      const float top_p = *std::max_element(p, p + width);
      nll[row] = static_cast<float>(of_q.value() - q[wanted[row]]);
      const RowDistance distance = distance_of(p, top_p, q, of_q.top, width);
      kl[row] = static_cast<float>(distance.kl);
      top[row] = static_cast<float>(1 / distance.weights);
      of_target[row] = static_cast<float>(std::exp(p[wanted[row]] - top_p) / distance.weights);
      same[row] = first_of(p, width, top_p) == first_of(q, width, of_q.top);
    }
  });
  return result;
}

// Whether the loops can read it: [T, V] with T targets, float32 on the CPU.
bool plain(const at::Tensor& logits, const at::Tensor& target) {
  TORCH_CHECK(logits.dim() == 2 && target.dim() == 1 && logits.size(0) == target.size(0), "logits ", logits.sizes(),
              " by targets ", target.sizes());
  return can_fuse({logits}) && target.is_cpu() && target.is_contiguous() && logits.size(1) > 0;
}

}  // namespace

at::Tensor cross_entropy_reference(const at::Tensor& logits, const at::Tensor& target) {
  const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return at::cross_entropy_loss(wide, target, {}, at::Reduction::None);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target) {
  return plain(logits, target) ? cross_entropy_fused(logits, target) : cross_entropy_reference(logits, target);
}

Divergence divergence_reference(const at::Tensor& full, const at::Tensor& logits, const at::Tensor& target) {
  const auto wide = logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor p = full.to(wide).log_softmax(-1), q = logits.to(wide).log_softmax(-1);  // [T, V]
  return {cross_entropy_reference(logits, target), at::kl_div(q, p, at::Reduction::None, /*log_target=*/true).sum(-1),
          full.argmax(-1) == logits.argmax(-1), p.amax(-1).exp().to(at::kFloat),
          p.gather(-1, target.unsqueeze(-1)).squeeze(-1).exp().to(at::kFloat)};
}

Divergence divergence(const at::Tensor& full, const at::Tensor& logits, const at::Tensor& target) {
  TORCH_CHECK(full.sizes() == logits.sizes(), "divergence: ", full.sizes(), " by ", logits.sizes());
  return plain(logits, target) && can_fuse({full}) ? divergence_fused(full, logits, target)
                                                   : divergence_reference(full, logits, target);
}

}  // namespace core
