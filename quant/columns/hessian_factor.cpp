#include "quant/columns/hessian_factor.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <numeric>

#include "core/linalg.h"

namespace quant {

std::vector<int64_t> natural_order(int64_t columns) {
  std::vector<int64_t> order(columns);
  std::iota(order.begin(), order.end(), 0);
  return order;
}

std::string unusable(const Statistics& x) {
  TORCH_CHECK(x.tokens == 0 || x.hessian.defined(), "the Hessian is needed");
  if (x.tokens == 0) return "no calibration token reached it";
  return at::isfinite(x.hessian).all().item<bool>() ? "" : "the Hessian is not finite";
}

HessianFactor factorized(const Statistics& x, std::vector<int64_t> order, double damp) {
  constexpr double kLargest = 10, kSmallest = 1e-4;
  HessianFactor factor{.h = x.hessian, .order = std::move(order)};
  const at::Tensor values = x.hessian.diagonal().cpu().contiguous();  // [I]
  const auto* diagonal = values.const_data_ptr<float>();
  const int64_t I = values.numel();
  std::vector<double> dead(I);  // 1 where no input was ever other than zero
  double sum = 0;
  for (int64_t j = 0; j < I; ++j) dead[j] = diagonal[j] == 0 ? 1 : 0, sum += diagonal[j] + dead[j];
  for (double share = damp; share <= kLargest; share = std::max(10 * share, kSmallest)) {
    std::vector<double> added(I);
    for (int64_t j = 0; j < I; ++j) added[j] = dead[factor.order[j]] + share * sum / static_cast<double>(I);
    if (auto u = core::inverse_factor(factor.h, factor.order, added); u && at::isfinite(*u).all().item<bool>()) {
      factor.u = u->cpu();
      if (share != damp) factor.note = fmt::format("damp {:g}", share);
      return factor;
    }
  }
  factor.reason = fmt::format("the Hessian is singular, also with damp {:g}", kLargest);
  return factor;
}

}  // namespace quant
