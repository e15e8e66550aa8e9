// Linear algebra that needs more than float32. The only place of float64 tensors: they live on the CPU, because not
// every device has them, and never leave this file.
#pragma once

#include <ATen/core/Tensor.h>

namespace core {

double sum_of_squares(const at::Tensor& x);  // of a float tensor of any shape, on any device

}  // namespace core
