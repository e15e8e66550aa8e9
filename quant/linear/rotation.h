// Incoherence of a linear: its weight is coded as U W Vᵀ with orthogonal U and V, Hadamard matrices with random signs,
// which spread outliers over all weights, and its product undoes that: y = Uᵀ (U W Vᵀ) (V x) (QuIP#, Tseng et al. 2024,
// arXiv 2402.04396, section 3; QTIP and EXL3 do the same). The signs follow from the seed and the width alone, so that
// linears which share an input or codes share them too; nothing but the seed is stored.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

#include "core/hadamard.h"
#include "quant/grids/weight_config.h"

namespace quant {

class Rotation {
 public:
  // Null where the configuration asks for none.
  static std::shared_ptr<const Rotation> make(const IncoherenceConfig& config, int64_t out_features,
                                              int64_t in_features, uint64_t seed);

  at::Tensor input(const at::Tensor& x) const;     // V x; x: [..., I]
  at::Tensor output(const at::Tensor& y) const;    // Uᵀ y; y: [..., O]
  at::Tensor coded(const at::Tensor& w) const;     // U W Vᵀ; w: [O, I]
  at::Tensor original(const at::Tensor& w) const;  // Uᵀ W V

  // Widths that are rotated in blocks, because they have no matrix of their own, "11008 in 256"; empty: none.
  std::string blocks() const;
  const IncoherenceConfig& config() const { return config_; }
  uint64_t seed() const { return seed_; }
  int64_t macs() const;  // per token

 private:
  // diag(signs), then the matrix; undefined signs are ones. Without a matrix the side stays as it is.
  struct Side {
    std::shared_ptr<const core::Hadamard> hadamard;
    at::Tensor signs;  // [n] float32, ±1

    at::Tensor apply(const at::Tensor& x) const;
    at::Tensor undo(const at::Tensor& x) const;
  };
  static Side side(int64_t width, bool signs, uint64_t seed);

  IncoherenceConfig config_;
  uint64_t seed_ = 0;
  Side in_, out_;
};

// Inputs of equal widths with equal texts are rotated alike.
std::string as_text(const Rotation& rotation);

}  // namespace quant
