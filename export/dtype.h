// How tensors of ATen are called in safetensors files.
#pragma once

#include <ATen/core/Tensor.h>

#include "core/io/tensor_source.h"

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

}  // namespace exports
