// What a method may know about the inputs of a linear. Calibration fills what the method asks for and nothing more.
#pragma once

#include <ATen/core/Tensor.h>

namespace quant {

// What a method asks for.
struct Needs {
  bool hessian = false;      // mean of x xᵀ
  bool mean_square = false;  // mean of x² per input column
  bool any() const { return hessian || mean_square; }
};

// Over all calibration tokens that reached the linear; undefined where not asked for.
struct Statistics {
  at::Tensor hessian;      // [I, I] float32
  at::Tensor mean_square;  // [I] float32
  int64_t tokens = 0;
};

}  // namespace quant
