// A quantized weight as the kernels of quant/kernels multiply with it: the codes in their layout, made once from the
// canonical ones, and the scales and zero points beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "core/codes.h"
#include "quant/activation.h"
#include "quant/decoder.h"
#include "quant/kernels/product.h"

namespace quant {

// How a linear runs when it does not decode its whole weight first.
struct Execution {
  // integer: inputs are rounded to int8 per token first, on the grid of quant.activation's bits: 8, symmetry: narrow.
  kernels::Precision precision = kernels::Precision::real;
  int64_t most_rows = kernels::kMostInputs;  // inputs of more rows are multiplied with a decoded weight
};

class PackedWeight {
 public:
  // Null, and the reason, when there is no kernel for these codes or where they are.
  static std::unique_ptr<PackedWeight> make(const Decoder& decoder, const core::Codes& codes,
                                            const Parameters& parameters, const Execution& execution,
                                            std::string& reason);

  // x: [n, I] float32 -> [n, O]. Inputs are taken eight at a time.
  at::Tensor product(const at::Tensor& x) const;
  // The inputs as `product` sees them: themselves, or what int8 makes of them.
  at::Tensor rounded(const at::Tensor& x) const { return input_ ? input_->apply(x) : x; }

  const Execution& execution() const { return execution_; }
  const kernels::Kernel& kernel() const { return *kernel_; }
  bool has_factors() const { return rows_.defined(); }
  int64_t bytes() const { return words_.nbytes() + values_.nbytes(); }

 private:
  PackedWeight() = default;
  at::Tensor codes_product(const at::Tensor& x, kernels::Precision precision) const;  // [m, I] -> [m, O]

  Execution execution_;
  const kernels::Kernel* kernel_ = nullptr;
  std::shared_ptr<const InputQuantizer> input_;  // of int8
  kernels::Layout layout_;
  at::Tensor words_, values_, table_;  // int32, int16 or float32, float32
  kernels::Parameters parameters_;     // points into values_ and table_
  at::Tensor rows_, columns_;          // of PackedForm
};

}  // namespace quant
