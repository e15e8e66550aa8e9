// The affine grid: level of code k is s (k − z), with one scale s and one zero point z per group of S weights of a row.
// Definitions: docs/keys.md (quant.weight). The scale is rounded to the dtype in which it is stored before z is
// computed and before anything is encoded, so what is measured is what is saved.
#pragma once

#include "quant/decoder.h"

namespace quant {

class AffineGrid : public Decoder {
 public:
  // Reads bits 1–8 and group_size S, which must divide I (−1: the row, 0: the whole matrix).
  explicit AffineGrid(const WeightConfig& config)
      : Decoder(config), bits_(config.bits), group_size_(config.group_size) {}

  std::string name() const override { return "affine"; }
  Order order() const override { return Order::elementwise; }
  int64_t groups(int64_t in_features) const override;

  // Range: [lo, hi] = [min, max] of the group widened to contain 0; s = (hi − lo) / (2^b − 1), z = round(−lo / s).
  Parameters fit(const at::Tensor& w,
                 const Statistics& x) const override;  // scale: [O, G] float32, zero_point: [O, G] uint8
  // k = clamp(round(w / s + z), 0, 2^b − 1), ties to even.
  Encoded encode(const at::Tensor& w, Parameters parameters) const override;
  at::Tensor decode(const at::Tensor& codes, const Parameters& parameters) const override;
  Parameters layout(int64_t out_features, int64_t in_features) const override;

 private:
  at::Tensor grouped(
      const at::Tensor& matrix) const;  // [O, I] -> [O, G, S]; the whole matrix as one group: [1, 1, O·I]
  double top() const { return static_cast<double>((1 << bits_) - 1); }

  int64_t bits_, group_size_;
};

}  // namespace quant
