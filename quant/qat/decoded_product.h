// The product of a linear whose weight any differentiable format makes: between forward and backward only codes and
// parameters are kept, the weight is decoded again for its gradient.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace quant {

// Parameters, in an order that both sides know -> the weight [O, I] float32, by differentiable operations.
using DecodeWeight = std::function<at::Tensor(const std::vector<at::Tensor>& parameters)>;

// x: [..., I] -> x Ŵᵀ: [..., O]. `decode` is called in the forward and in the backward pass and must give the same.
at::Tensor decoded_product(const at::Tensor& x, const std::vector<at::Tensor>& parameters, const DecodeWeight& decode);

}  // namespace quant
