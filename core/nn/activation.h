// Activation functions of feed-forward networks.
#pragma once

#include <ATen/core/Tensor.h>

namespace core {

// silu(gate) ∘ up, the inner product of SwiGLU (Shazeer 2020, arXiv 2002.05202). Same shapes.
at::Tensor silu_product(const at::Tensor& gate, const at::Tensor& up);

// The same in tensor operations: the definition, the gradient, and the path of other devices and dtypes.
at::Tensor silu_product_reference(const at::Tensor& gate, const at::Tensor& up);

}  // namespace core
