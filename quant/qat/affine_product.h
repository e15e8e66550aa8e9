// The product of a linear with an affine grid, made for training its scales and zero points: between forward and
// backward only the packed codes, the scales and the inputs are kept. The weight is decoded twice, some rows at a time,
// and its gradient is summed into groups as soon as some rows of it are there:
//   y = x Ŵᵀ,  ŵ = s (k − z + n)         n: noise in steps, 0 without it
//   ∂L/∂s = Σ_group ∂L/∂ŵ (k − z + n),   ∂L/∂z = −s Σ_group ∂L/∂ŵ      (EfficientQAT, arXiv 2407.11062)
#pragma once

#include "core/codes.h"
#include "quant/grids/weight_format.h"

namespace quant {

// Noise on the weights of one linear in one optimizer step, in steps of the grid: sigma · N(0, 1), the same whenever it
// is asked for.
struct TrainNoise {
  Place place = {};
  int64_t step = 0;
  double sigma = 0;

  // [O, I] float32; undefined when sigma is 0.
  at::Tensor draw(int64_t rows, int64_t columns, at::Device device = at::kCPU) const;
};

// x: [..., I]; codes: [O, I]; scale, shift (zero point − offset): [O, G] float32 -> [..., O] in x's dtype.
at::Tensor affine_product(const at::Tensor& x, const core::Codes& codes, const at::Tensor& scale,
                          const at::Tensor& shift, const TrainNoise& noise = {});

// The same in tensor operations with plain autograd: the definition. codes: [O, I]; everything in one float dtype.
// noise: [O, I] in steps, or undefined.
at::Tensor affine_product_reference(const at::Tensor& x, const at::Tensor& codes, const at::Tensor& scale,
                                    const at::Tensor& shift, const at::Tensor& noise = {});

}  // namespace quant
