// GPTQ (Frantar 2022, arXiv 2210.17323) in double and plain loops: what the fast one is compared with.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "quant/grids/weight_format.h"

namespace quant {

// Cholesky factor of the inverse, upper: Gauss-Jordan, then Cholesky.
inline std::vector<double> inverse_factor_of(std::vector<double> a, int64_t n) {
  std::vector<double> inverse(n * n, 0.0);
  for (int64_t i = 0; i < n; ++i) inverse[i * n + i] = 1;
  for (int64_t p = 0; p < n; ++p) {  // positive definite: no pivoting
    const double pivot = a[p * n + p];
    for (int64_t j = 0; j < n; ++j) a[p * n + j] /= pivot, inverse[p * n + j] /= pivot;
    for (int64_t i = 0; i < n; ++i) {
      const double factor = a[i * n + p];
      if (i == p || factor == 0) continue;
      for (int64_t j = 0; j < n; ++j)
        a[i * n + j] -= factor * a[p * n + j], inverse[i * n + j] -= factor * inverse[p * n + j];
    }
  }
  std::vector<double> u(n * n, 0.0);  // inverse = Uᵀ U
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = i; j < n; ++j) {
      double sum = inverse[i * n + j];
      for (int64_t k = 0; k < i; ++k) sum -= u[k * n + i] * u[k * n + j];
      u[i * n + j] = i == j ? std::sqrt(sum) : sum / u[i * n + i];
    }
  }
  return u;
}

// Static groups, asymmetric grid; codes [O, I].
inline at::Tensor slow_gptq(const at::Tensor& weight, const at::Tensor& hessian, const Parameters& fitted,
                            int64_t group_size, int64_t top, double damp, bool act_order) {
  const int64_t O = weight.size(0), I = weight.size(1);
  const at::Tensor H = hessian.contiguous(), W = weight.contiguous(), scale = fitted.at("scale").contiguous(),
                   zero = fitted.at("zero_point").to(at::kFloat).contiguous();
  const float* h = H.const_data_ptr<float>();
  std::vector<int64_t> order(I);
  std::iota(order.begin(), order.end(), 0);
  if (act_order)
    std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return h[a * I + a] > h[b * I + b]; });
  double mean = 0;
  for (int64_t j = 0; j < I; ++j) mean += h[j * I + j] / static_cast<double>(I);
  std::vector<double> damped(I * I);
  for (int64_t i = 0; i < I; ++i) {
    for (int64_t j = 0; j < I; ++j) damped[i * I + j] = h[order[i] * I + order[j]] + (i == j ? damp * mean : 0.0);
  }
  const std::vector<double> u = inverse_factor_of(damped, I);
  at::Tensor codes = at::empty({O, I}, at::kByte);
  for (int64_t o = 0; o < O; ++o) {
    std::vector<double> w(I);
    for (int64_t j = 0; j < I; ++j) w[j] = W.const_data_ptr<float>()[o * I + order[j]];
    for (int64_t j = 0; j < I; ++j) {
      const int64_t group = o * scale.size(1) + order[j] / group_size;
      const double s = scale.const_data_ptr<float>()[group], z = zero.const_data_ptr<float>()[group];
      const double k = std::clamp(std::nearbyint(w[j] / s + z), 0.0, static_cast<double>(top));
      codes.mutable_data_ptr<uint8_t>()[o * I + order[j]] = static_cast<uint8_t>(k);
      const double error = (w[j] - s * (k - z)) / u[j * I + j];
      for (int64_t later = j + 1; later < I; ++later) w[later] -= error * u[j * I + later];
    }
  }
  return codes;
}

}  // namespace quant
