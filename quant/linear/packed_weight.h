// A quantized weight as the kernels of quant/kernels multiply with it: the codes in their layout, which takes the place
// of the canonical ones, and the scales and zero points beside them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/codes.h"
#include "quant/grids/activation.h"
#include "quant/grids/weight_format.h"
#include "quant/kernels/product.h"

namespace quant {

// How a linear runs when it does not decode its whole weight first.
struct Execution {
  // integer: inputs are rounded to int8 first, 32 columns of a token together (kernels/inputs.h).
  kernels::Precision precision = kernels::Precision::real;
  int64_t most_rows = kernels::kMostInputs;  // inputs of more rows are multiplied with a decoded weight
};

// Codes in the layout of the kernels.
class InterleavedCodes : public core::CodeOrder {
 public:
  InterleavedCodes(const kernels::Layout& layout, const core::Codes& codes);
  at::Tensor unpack_rows(const at::Tensor& index) const override;
  const kernels::Layout& layout() const { return layout_; }
  const uint32_t* words() const { return data_; }

 private:
  kernels::Layout layout_;
  at::Tensor words_;      // int32
  const uint32_t* data_;  // its numbers: asked for in every product
};

class PackedWeight {
 public:
  // Null, and the reason, when there is no kernel for these codes or where they are. Otherwise the codes are kept in
  // the layout of the kernels from now on, once for all linears that share them and multiply in the same groups.
  static std::unique_ptr<PackedWeight> make(const WeightFormat& format, const core::Codes& codes,
                                            const Parameters& parameters, const Execution& execution,
                                            std::string& reason);

  // x: [n, I] float32, as `rounded` gives it -> [n, O]. Inputs are taken eight at a time.
  at::Tensor product(const at::Tensor& x) const;
  // Of weights that share codes. x: [R, n, I], or [1, n, I], one input for all -> [R, n, O]. As many as eight inputs
  // are multiplied with one load of the codes, each with the parameters of its weight.
  static at::Tensor product_beside(const std::vector<const PackedWeight*>& all, const at::Tensor& x);
  // Of weights that read alike: x [n, I] -> [n, O] of each. The inputs are prepared once, and all rows are shared among
  // the threads at once.
  static std::vector<at::Tensor> product_each(const std::vector<const PackedWeight*>& all, const at::Tensor& x);
  bool reads_like(const PackedWeight& other) const;         // product_each may join the two
  bool shares_codes_with(const PackedWeight& other) const;  // and levels: only scales and zero points may differ
  // The inputs as they are multiplied: themselves, or what int8 makes of them. Kernels of integers round on their own:
  // `product` then takes x itself, too.
  at::Tensor rounded(const at::Tensor& x) const { return input_ ? input_->apply(x) : x; }
  bool rounds_itself() const { return precision_ == kernels::Precision::integer; }

  const Execution& execution() const { return execution_; }
  const kernels::Kernel& kernel() const { return *kernel_; }

 private:
  PackedWeight() = default;
  const kernels::Layout& layout() const { return codes_->layout(); }
  void add_set(const ElementGrid& grid);
  at::Tensor multiplied(const at::Tensor& x) const;  // [n, I] -> [m, I], m ≥ n: what the codes are multiplied with
  at::Tensor finished(const at::Tensor& x, const at::Tensor& y) const;  // [n, I] and [m, O] -> [n, O]
  at::Tensor codes_product(const at::Tensor& x) const;                  // [m, I] -> [m, O]
  // sets of this weight, for inputs first … first + n − 1 of out [m, O].
  kernels::Product product_of(std::span<const kernels::Parameters> sets, const at::Tensor& out, int64_t first) const;
  // sets: one, one per input, or for one input several. x: [m, I] -> [number of inputs or sets, O].
  at::Tensor run(const at::Tensor& x, const std::vector<kernels::Parameters>& sets) const;

  Execution execution_;
  const kernels::Kernel* kernel_ = nullptr;
  kernels::Precision precision_ = kernels::Precision::real;  // of the kernel
  std::shared_ptr<const InputQuantizer> input_;              // of int8
  std::shared_ptr<const InterleavedCodes> codes_;
  at::Tensor table_;                       // float32
  size_t table_hash_ = 0;                  // equal for equal tables
  std::vector<at::Tensor> values_;         // of every set: int16 or float32
  std::vector<kernels::Parameters> sets_;  // point into values_ and table_
  at::Tensor rows_, columns_, a_, b_;      // of PackedForm
};

}  // namespace quant
