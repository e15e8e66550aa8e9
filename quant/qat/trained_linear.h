// A quantized linear while its parameters are trained. It stands in the slot of the QuantizedLinear that it was made
// from, has the same codes, and computes with the parameters rounded as they will be stored; gradients pass through
// that rounding.
#pragma once

#include <functional>
#include <memory>

#include "quant/linear/quantized_linear.h"
#include "quant/qat/affine_product.h"

namespace quant {

// What an optimizer step tells all linears. Without `training` there is no noise of `at: train`.
struct TrainingStep {
  int64_t step = 0;
  bool training = false;
};

// The format with other variables; what makes it a replication strategy's stays.
using FormatFactory = std::function<std::shared_ptr<const WeightFormat>(const WeightFormat&, const WeightConfig&,
                                                                        int64_t in_features, int64_t out_features)>;

class TrainedLinear : public core::Linear {
 public:
  // floats_zeros: integer zero points become float ones, in their dtype.
  TrainedLinear(const QuantizedLinear& from, bool floats_zeros, const FormatFactory& format_factory,
                std::shared_ptr<const TrainingStep> moment);

  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor weight() const override;  // decoded from the rounded parameters, without noise
  at::Tensor bias() const override { return bias_; }
  std::vector<core::State> state() const override;  // float parameters are leaves that may be set to require gradients
  core::Cost cost() const override { return finished()->cost(); }

  int64_t stored_bits(const at::Tensor& parameter) const;  // per value of one of the state's
  bool floated_zeros() const { return floated_; }
  // With the parameters as they are stored.
  std::shared_ptr<QuantizedLinear> finished() const;

 private:
  at::Tensor product(const at::Tensor& x, const Parameters& stored) const;
  TrainNoise noise() const;

  std::shared_ptr<const WeightFormat> format_;
  core::Codes codes_;
  std::string codes_of_;
  Parameters parameters_;
  std::shared_ptr<const InputQuantizer> input_;
  std::shared_ptr<const Rotation> rotation_;
  at::Tensor bias_;
  int64_t bias_bits_;
  at::ScalarType compute_dtype_;
  std::shared_ptr<const TrainingStep> step_in_training_;
  bool floated_ = false;
};

}  // namespace quant
