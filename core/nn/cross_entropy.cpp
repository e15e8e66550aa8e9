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

// log Σ exp(x), read twice and never written. NaN stays NaN.
REFRAIN_SIMD double log_sum_exp(const float* x, int64_t count) {
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
  return top + std::log(sum);
}

at::Tensor cross_entropy_fused(const at::Tensor& logits, const at::Tensor& target) {
  const int64_t rows = logits.size(0), width = logits.size(1);
  at::Tensor loss = at::empty({rows}, logits.options());
  const auto* x = logits.const_data_ptr<float>();
  const auto* wanted = target.const_data_ptr<int64_t>();
  auto* to = loss.mutable_data_ptr<float>();
  at::parallel_for(0, rows, 1 + kGrain / width, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      TORCH_CHECK(wanted[row] >= 0 && wanted[row] < width, "cross_entropy: token ", wanted[row], " of ", width);
      to[row] = static_cast<float>(log_sum_exp(x + row * width, width) - x[row * width + wanted[row]]);
    }
  });
  return loss;
}

}  // namespace

at::Tensor cross_entropy_reference(const at::Tensor& logits, const at::Tensor& target) {
  const at::Tensor wide = logits.scalar_type() == at::kDouble ? logits : logits.to(at::kFloat);
  return at::cross_entropy_loss(wide, target, {}, at::Reduction::None);
}

at::Tensor cross_entropy(const at::Tensor& logits, const at::Tensor& target) {
  TORCH_CHECK(logits.dim() == 2 && target.dim() == 1 && logits.size(0) == target.size(0),
              "cross_entropy: ", logits.sizes(), " by ", target.sizes());
  const bool plain = can_fuse({logits}) && target.is_cpu() && target.is_contiguous() && logits.size(1) > 0;
  return plain ? cross_entropy_fused(logits, target) : cross_entropy_reference(logits, target);
}

}  // namespace core
