#include "core/linalg.h"

#include <ATen/ATen.h>

namespace core {

double sum_of_squares(const at::Tensor& x) { return at::sum(at::square(x.cpu()), at::kDouble).item<double>(); }

}  // namespace core
