#include "quant/calibration/corrected_target.h"

#include <ATen/ATen.h>

#include "core/linalg.h"

namespace quant {

std::optional<at::Tensor> corrected(const at::Tensor& w, const Statistics& x, const Correction& correction) {
  if (correction.share == 0) return w;
  const double lambda = correction.damp * at::mean(x.hessian.diagonal()).item<double>();
  const auto change = core::product_over(w, x.cross, x.hessian, lambda);
  if (!change || !at::isfinite(*change).all().item<bool>()) return std::nullopt;
  return w + *change * correction.share;
}

}  // namespace quant
