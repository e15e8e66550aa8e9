// Quantized activations: the input x of a linear takes levels of the same grids as weights (quant/grids/affine.h).
// Dynamic scales are found anew for every input, and nothing is stored; static ones are found once, on the calibration
// text, and stored with their zero points. Both are float32: inputs reach beyond float16, and a linear has few of them.
// Weights are calibrated on the quantized inputs.
//
// Inputs may be quantized several times, on grids that differ, and averaged: W · mean_r g_r(x) is one product, whatever
// the replicas of a linear with one weight do to its inputs.
#pragma once

#include "quant/grids/affine.h"
#include "quant/grids/input_histogram.h"

namespace quant {

struct ActivationClip : core::Section {
  std::string kind = "ratio";
  double value = 1.0;

  void keys(core::Keys& k) override;
  void check() const override;
};

// How one replica of the inputs differs from quant.activation.
struct ActivationReplica : core::Section {
  ActivationClip clip;
  double scale = 1.0, zero_point = 0.0, offset = 0.0;

  void keys(core::Keys& k) override;
};

// The keys of quant.activation.
struct ActivationConfig : core::Section {
  static constexpr int64_t kFullPrecision = 16;

  int64_t bits = kFullPrecision;
  std::string mode = "dynamic";
  std::string granularity = "per_token";
  int64_t group_size = 64;
  std::string symmetry = "asymmetric";
  std::string range = "minmax";
  ActivationClip clip;
  double offset = 0.0;
  std::string rounding = "nearest";
  std::vector<ActivationReplica> replicas;

  void keys(core::Keys& k) override;
  void check() const override;
  bool covered() const { return bits != kFullPrecision; }
  bool is_static() const { return covered() && mode == "static"; }
};

class InputQuantizer {
 public:
  InputQuantizer(const ActivationConfig& config, Place place, int64_t in_features);

  const ActivationConfig& config() const { return config_; }
  const Place& place() const { return place_; }
  at::Tensor apply(const at::Tensor& x) const;  // [..., I] -> the same shape and dtype; the mean of the replicas
  // The same with gradients: with respect to x they pass straight through the rounding (of a static quantizer within
  // its range), and of a static one to its parameters. What `apply` does when x needs a gradient.
  at::Tensor trainable(const at::Tensor& x) const;

  // What a static quantizer stores, tensors undefined until it is calibrated: activation_scale [G], and with symmetry:
  // asymmetric activation_zero_point [G]; G is 1 for per_tensor. Replicas 1, 2, … have theirs with _1, _2, … at the
  // end of the names. Of a dynamic one: nothing.
  const Parameters& parameters() const { return parameters_; }
  // The static quantizer with these parameters, or with those that the inputs ask for. Errors: no input was seen, one
  // was not finite.
  std::shared_ptr<const InputQuantizer> with(Parameters parameters) const;
  std::shared_ptr<const InputQuantizer> calibrated(const InputHistogram& seen) const;
  InputHistogram histogram() const;  // an empty one, with what `calibrated` reads

 private:
  int64_t groups() const;                         // G of a row
  at::Tensor grouped(const at::Tensor& x) const;  // [..., I] -> [T, G, S], or [1, 1, T · I]
  Range range(const at::Tensor& groups) const;
  Range range(const InputHistogram& seen) const;
  Range clipped(const Range& whole) const;
  AffineGrid::Steps steps() const;  // of the parameters
  AffineGrid::Steps own_steps(const at::Tensor& groups) const;
  using OfReplica = std::function<at::Tensor(const InputQuantizer& replica, const at::Tensor& x)>;
  at::Tensor mean_of_replicas(const at::Tensor& x, const OfReplica& of) const;
  at::Tensor dither(const at::Tensor& x) const;  // of stochastic rounding; undefined: to the nearest

  ActivationConfig config_;
  Place place_;
  int64_t in_features_;
  AffineGrid grid_;
  Parameters parameters_;
  std::vector<std::shared_ptr<const InputQuantizer>> replicas_;  // empty: it is the only one
  // What makes it one of several.
  uint64_t index_ = 0;
  double scale_ = 1.0, zero_point_ = 0.0;
};

// Null for 16 bits. Error: a group size that does not divide the inputs.
std::shared_ptr<const InputQuantizer> make_input_quantizer(const ActivationConfig& config, const std::string& path,
                                                           int64_t in_features, uint64_t seed = 0);
// Its configuration, "" for none: inputs with equal texts are quantized alike.
std::string as_text(const InputQuantizer* input);

}  // namespace quant
