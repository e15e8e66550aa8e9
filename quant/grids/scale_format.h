// How scales, and what is stored like them, are written: in a float dtype, or (two-level) as small integers relative to
// a float scale that several groups share. What is rounded here is rounded before anything is encoded, so what is
// measured is what is saved.
#pragma once

#include "quant/grids/weight_format.h"

namespace quant {

class ScaleFormat {
 public:
  // Reads scale_dtype, scale_bits, scale_group, scale_zero. is_signed: scales may be negative.
  ScaleFormat(const WeightConfig& config, bool is_signed);

  at::ScalarType dtype() const { return dtype_; }
  int64_t bits() const { return c10::elementSize(dtype_) * 8; }  // of the dtype

  // To the dtype and back to float32.
  at::Tensor rounded(const at::Tensor& values) const;
  // The same for scales, which must not become 0: below 2⁻¹⁸ float16's subnormal numbers are rounded up; of another
  // dtype |s| is at least the smallest normal number. A scale of 0, of a group of zeros, becomes the smallest normal
  // number. Error: a scale that is not finite in the dtype.
  at::Tensor rounded_scale(const at::Tensor& scale) const;

  // The parameters that stand for a matrix of scales, [O, G]: scale [O, G]; two-level: scale_codes [O, G] and
  // super_scale [O, ceil(G / scale_group)].
  Parameters layout(const std::vector<int64_t>& shape) const;
  // Their values for exact scales [O, G] float32: s = super_scale · q with q = code + 1, or with a sign in the top bit
  // ±(code' + 1); with scale_zero q = code, or code − 2^(scale_bits − 1). super_scale = max |s| / max |q| over its
  // groups.
  Parameters stored(const at::Tensor& scale) const;
  // The scales that they stand for, [O, G] float32. Differentiable.
  at::Tensor scale(const Parameters& parameters) const;

  // What they are made of: scale = shared · multiple, [O, G] float32 each; one-level: multiples of 1.
  struct Parts {
    at::Tensor shared, multiple;
  };
  Parts parts(const Parameters& parameters) const;
  Parts minimum_parts(const Parameters& parameters) const;  // of −minimum

  // The parameters with these scales in place of theirs; none where several groups or rows share what is stored.
  std::optional<Parameters> replaced(Parameters parameters, const at::Tensor& scale) const;

  // The same for lowest levels m ≤ 0 of groups: minimum [O, G]; two-level: minimum_codes n [O, G] and super_minimum
  // [O, ceil(G / scale_group)], m = −super_minimum · n.
  Parameters minimum_layout(const std::vector<int64_t>& shape) const;
  Parameters stored_minimum(const at::Tensor& minimum) const;
  at::Tensor minimum(const Parameters& parameters) const;

 private:
  bool two_level() const { return scale_bits_ > 0; }
  // Of q, the largest.
  int64_t magnitudes() const {
    return (int64_t{1} << (is_signed_ ? scale_bits_ - 1 : scale_bits_)) - (scale_zero_ ? 1 : 0);
  }
  int64_t bias() const { return is_signed_ ? int64_t{1} << (scale_bits_ - 1) : 0; }  // of codes, with scale_zero
  // max |x| over the groups that share a super-scale, [O, U]. x: [O, G].
  at::Tensor largest(const at::Tensor& x) const;
  int64_t shared(int64_t groups) const;                                       // groups that share a super-scale
  at::Tensor per_group(const at::Tensor& super_scale, int64_t groups) const;  // [O, U] -> [O, G]

  at::ScalarType dtype_;
  int64_t scale_bits_, scale_group_;
  bool scale_zero_, is_signed_;
};

// How many scales are so small, below 2⁻¹⁸, that float16 stores them with an error that may exceed 2⁻⁷.
int64_t imprecise_scales(const Parameters& parameters);

}  // namespace quant
