// A quantized linear while its parameters, and perhaps its codes, are trained. It stands in the slot of the
// QuantizedLinear that it was made from, and computes with the parameters rounded as they will be stored; gradients
// pass through that rounding.
//
// Codes are trained through a continuous copy U of them, which begins where they are. On an affine grid they are U
// rounded at every step, ŵ = s (clamp(round(U)) − z), and the gradient of U passes straight through the rounding,
// within the range; so that of s is the one that it has with these codes. (Block-AP of EfficientQAT, arXiv 2407.11062,
// section 3.2, rounds U / s with U the weight.) Of other formats U is the weight over the scale of its group; codes
// that depend on their neighbours are found anew (Viterbi) for s U now and then, and gradients of the weight pass on to
// s U.
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

// Whether codes are trained, and how.
struct CodeTraining {
  bool trains = false;
  double rate = 1;           // of U, relative to the rate of parameters
  int64_t encode_every = 1;  // steps, of codes that depend on their neighbours
};

// The format with other variables; what makes it a replication strategy's stays.
using FormatFactory = std::function<std::shared_ptr<const WeightFormat>(const WeightFormat&, const WeightConfig&,
                                                                        int64_t in_features, int64_t out_features)>;

class TrainedLinear : public core::Linear {
 public:
  // floats_zeros: integer zero points become float ones, in their dtype.
  TrainedLinear(const QuantizedLinear& from, bool floats_zeros, const FormatFactory& format_factory,
                std::shared_ptr<const TrainingStep> moment, const CodeTraining& codes = {});

  at::Tensor forward(const at::Tensor& x) override;
  at::Tensor weight() const override;  // decoded from the rounded parameters, without noise
  at::Tensor bias() const override { return bias_; }
  // Float parameters are leaves that may be set to require gradients; so is U, as "weight".
  std::vector<core::State> state() const override;
  core::Cost cost() const override { return finished()->cost(); }

  int64_t stored_bits(const at::Tensor& parameter) const;  // per value of one of the state's
  bool floated_zeros() const { return floated_; }
  // With the parameters as they are stored.
  std::shared_ptr<QuantizedLinear> finished() const;

 private:
  at::Tensor product(const at::Tensor& x, const Parameters& stored) const;
  at::Tensor trained_weight(const Parameters& stored) const;  // [O, I] float32, where codes are trained
  at::Tensor scaled(const at::Tensor& x, const Parameters& parameters) const;  // x [O, I] times the scales of groups
  // Those that stand for U now, or, in a step of training that does not encode, those of the last one that did.
  const core::Codes& codes(const Parameters& stored) const;
  bool is_affine() const;
  int64_t changes() const;  // of U and the parameters so far
  TrainNoise noise() const;

  std::shared_ptr<const WeightFormat> format_;
  CodeTraining code_training_;
  at::Tensor u_;  // [O, I] float32, in steps of the grid; undefined: codes stay
  mutable core::Codes codes_;
  mutable int64_t encoded_ = 0;  // changes of U and the parameters when codes_ were made
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
