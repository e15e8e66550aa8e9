// A linear whose weight is codes and quantization parameters; the weight is decoded when it is needed.
#pragma once

#include <memory>

#include "core/codes.h"
#include "core/nn/linear.h"
#include "quant/grids/activation.h"
#include "quant/grids/weight_format.h"
#include "quant/linear/packed_weight.h"
#include "quant/linear/rotation.h"

namespace quant {

// What a linear with codes stores, in the order of a checkpoint. input, bias: null or undefined where there is none.
std::vector<core::State> coded_state(const core::Codes& codes, const Parameters& parameters,
                                     const InputQuantizer* input, const at::Tensor& bias);

class QuantizedLinear : public core::Linear {
 public:
  // bias: [O] in the compute dtype or undefined, stored with `bias_bits` per element.
  QuantizedLinear(std::shared_ptr<const WeightFormat> format, Encoded encoded, at::Tensor bias, int64_t bias_bits,
                  at::ScalarType compute_dtype);
  QuantizedLinear(std::shared_ptr<const WeightFormat> format, core::Codes codes, Parameters parameters, at::Tensor bias,
                  int64_t bias_bits, at::ScalarType compute_dtype);

  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor forward_beside(const std::vector<core::Linear*>& all, const at::Tensor& x) override;
  // Rounds the input once, where all run packed and read it alike.
  std::vector<at::Tensor> forward_each(const std::vector<core::Linear*>& all, const at::Tensor& x) override;
  // Both run packed, with the same codes under parameters of their own.
  bool reads_once_beside(const core::Linear& other) const override;
  // Decoded, compute dtype; with the noise of inference if there is any. What all tokens share, see
  // WeightFormat::product.
  at::Tensor weight() const override;
  at::Tensor rows(const at::Tensor& index) const override;  // decodes these rows only
  at::Tensor bias() const override { return bias_; }
  std::vector<core::State> state() const override;  // "codes", the parameters' names (of the inputs too), "bias"
  core::Cost cost() const override;

  // The linear then quantizes its inputs, and keeps what that needs; null: it does not. Once, after it is made.
  void quantize_input(std::shared_ptr<const InputQuantizer> input);
  const InputQuantizer* input() const { return input_.get(); }

  // The codes are of the rotated weight: inputs and outputs are rotated to fit; null: they are not. Once, after it is
  // made.
  void rotate(std::shared_ptr<const Rotation> rotation) { rotation_ = std::move(rotation); }
  const std::shared_ptr<const Rotation>& rotation() const { return rotation_; }

  // From now on inputs of few rows are multiplied with packed codes, others with a weight that is decoded by tile.
  // Without gradients. "", or why there is no kernel for this linear, which goes on as before.
  std::string run_packed(const Execution& execution);
  const PackedWeight* packed() const { return packed_.get(); }

  // The codes are those of another linear, in the same memory: it stores them. owner: its path; "": none.
  void share_codes(std::string owner) { codes_of_ = std::move(owner); }
  const std::string& codes_of() const { return codes_of_; }

  // The same codes, bias and inputs under other parameters, whose codes are stored by the same linear.
  std::shared_ptr<QuantizedLinear> with(std::shared_ptr<const WeightFormat> format, Parameters parameters) const;

  const WeightFormat& format() const { return *format_; }
  const std::shared_ptr<const WeightFormat>& shared_format() const { return format_; }
  const core::Codes& codes() const { return codes_; }
  const Parameters& parameters() const { return parameters_; }
  int64_t bias_bits() const { return bias_bits_; }
  at::ScalarType compute_dtype() const { return compute_dtype_; }

 private:
  at::Tensor decoded() const;                                                    // [O, I], compute dtype, as coded
  at::Tensor product(const at::Tensor& x, const at::Tensor& bias) const;         // of inputs as they are coded
  at::Tensor packed_product(const at::Tensor& x, const at::Tensor& bias) const;  // [..., I] -> [..., O]
  bool reads_like(const core::Linear& other) const;                              // forward_each may join the two
  at::Tensor product_by_tile(const at::Tensor& x) const;                         // [n, I] -> [n, O]
  at::Tensor decoded_rows(const at::Tensor& index) const;                        // index: [n] int64 -> [n, I] float32
  at::Tensor noise() const;                                                      // [O, I] float32
  Parameters parameters_of_rows(const at::Tensor& index) const;                  // index: [n] int64

  std::shared_ptr<const WeightFormat> format_;
  std::shared_ptr<const InputQuantizer> input_;
  std::shared_ptr<const Rotation> rotation_;
  core::Codes codes_;
  std::string codes_of_;
  Parameters parameters_;
  at::Tensor bias_;
  int64_t bias_bits_;
  at::ScalarType compute_dtype_;
  std::unique_ptr<PackedWeight> packed_;
  mutable at::Tensor draw_;  // [O, I] of N(0, 1), once it was needed
};

}  // namespace quant
