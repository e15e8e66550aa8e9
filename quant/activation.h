// Quantized activations: the input x of a linear takes levels of the same grids as weights (quant/affine.h), with
// scales in float32 that are found anew for every input. Nothing is stored. Weights are calibrated on the quantized
// inputs.
#pragma once

#include "quant/affine.h"

namespace quant {

struct ActivationClip : core::Section {
  std::string kind = "ratio";
  double value = 1.0;

  void keys(core::Keys& k) override;
  void check() const override;
};

// The keys of quant.activation.
struct ActivationConfig : core::Section {
  static constexpr int64_t kFullPrecision = 16;

  int64_t bits = kFullPrecision;
  std::string granularity = "per_token";
  int64_t group_size = 64;
  std::string symmetry = "asymmetric";
  ActivationClip clip;
  double offset = 0.0;
  std::string rounding = "nearest";

  void keys(core::Keys& k) override;
  bool covered() const { return bits != kFullPrecision; }
};

class InputQuantizer {
 public:
  InputQuantizer(const ActivationConfig& config, Place place);

  const ActivationConfig& config() const { return config_; }
  at::Tensor apply(const at::Tensor& x) const;  // [..., I] -> the same shape and dtype

 private:
  at::Tensor grouped(const at::Tensor& x) const;  // [..., I] -> [T, G, S], or [1, 1, T · I]
  Range range(const at::Tensor& groups) const;

  ActivationConfig config_;
  AffineGrid grid_;
};

// Null for 16 bits. Error: a group size that does not divide the inputs.
std::shared_ptr<const InputQuantizer> make_input_quantizer(const ActivationConfig& config, const std::string& path,
                                                           int64_t in_features, uint64_t seed = 0);

}  // namespace quant
