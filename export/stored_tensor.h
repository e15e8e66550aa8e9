// Tensors as files hold them: the name of their type, and the parameters of a quantized linear without a loss.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/codes.h"
#include "core/io/tensor_source.h"
#include "quant/grids/weight_format.h"

namespace exports {

inline core::DType dtype_of(const at::Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case at::kFloat:
      return core::DType::F32;
    case at::kHalf:
      return core::DType::F16;
    case at::kBFloat16:
      return core::DType::BF16;
    case at::kInt:
      return core::DType::I32;
    case at::kLong:
      return core::DType::I64;
    case at::kByte:
      return core::DType::U8;
    default:
      TORCH_CHECK(false, "tensors of ", tensor.scalar_type(), " are not stored");
  }
}

// A parameter as a file holds it: codes packed, floats in the dtype to which they were rounded before encoding.
inline at::Tensor stored(const quant::Parameter& parameter) {
  const at::Tensor tensor = parameter.tensor.detach().cpu();
  TORCH_CHECK(tensor.sizes() == at::IntArrayRef(parameter.shape), parameter.name, " is ", tensor.sizes(),
              ", not of its layout");
  if (core::is_codes(parameter.kind)) return core::Codes::pack(tensor, parameter.stored_bits).packed();
  const at::Tensor file = tensor.to(parameter.stored_dtype);
  TORCH_CHECK(at::equal(file.to(at::kFloat), tensor), parameter.name, " would change when stored as ",
              parameter.stored_dtype);
  return file;
}

}  // namespace exports
