// The affine grid: level of code k is s (k − z + o), with one scale s and one zero point z per group of S weights of a
// row and an offset o per tensor. `symmetry` says how s and z follow from the range; all but `asymmetric` have a
// constant z, which is not stored. The four symmetric conventions are those of the field (LightCompress, GPTQ,
// AutoRound, torchao); at 2 bits they are different quantizers.
//
//   symmetry     s from [lo, hi], α = max(hi, −lo)            z
//   asymmetric   (hi − lo) / (2^b − 1)                        −lo / s, rounded when zero_point: int;
//                                                             zero_point: min stores m = lo, level s (k + o) + m
//   narrow       α / (2^(b−1) − 1)                            2^(b−1)
//   span         2α / (2^b − 1)                               2^(b−1)
//   signed_full  −w_max / 2^(b−1), w_max = ±α with its sign   2^(b−1)
//   noclip       max(hi / (2^(b−1) − 1), −lo / 2^(b−1))       2^(b−1)
//   midrise      2α / (2^b − 1)                               (2^b − 1) / 2
// z is computed from the rounded scale.
#pragma once

#include "quant/grids/scalar_grid.h"

namespace quant {

class AffineGrid : public ScalarGrid {
 public:
  explicit AffineGrid(const WeightConfig& config, Place place = {})
      : ScalarGrid(config, std::move(place), config.symmetry == "signed_full") {}

  std::string name() const override { return "affine"; }

  Parameters fit(const at::Tensor& w, const Statistics& x) const override;
  at::Tensor decode(const at::Tensor& codes, const Parameters& parameters) const override;
  // The scale (quant/grids/scale_format.h); asymmetric: zero_point [O, G], uint8 or float32, or the minimum; offset [1]
  // if there is one.
  Parameters layout(int64_t out_features, int64_t in_features) const override;
  ElementGrid element_grid(const Parameters& parameters, int64_t out_features, int64_t in_features) const override;

  // What the levels of groups are made of: scale = shared · multiple and z − o, or minimum = −shared_minimum ·
  // minimum_multiple. [O, G] each (the matrix as one group: one row); undefined: the other one is stored.
  struct Levels {
    at::Tensor shared, multiple;
    at::Tensor zero = {};
    at::Tensor shared_minimum = {}, minimum_multiple = {};
  };
  // None: minima beside an offset.
  std::optional<Levels> levels(const Parameters& parameters) const;

  // For methods that train a range: the one that `range` and `clip` ask for, [O, G] (one group: [1, 1]), and the
  // parameters that store a range.
  Range range_of(const at::Tensor& w, const Statistics& x) const;
  Parameters parameters_of(const Range& range, const at::Tensor& w) const;
  // What w [O, I] is rounded to when `nudge` [O, I] is added to its position between the levels, in steps. Gradients
  // with respect to range and nudge pass straight through every rounding, that of scales and zero points included.
  at::Tensor trainable(const at::Tensor& w, const Range& range, const at::Tensor& nudge) const;

  // What groups [O, G, S] of this range, or with these steps, are rounded to. dither: uniform in [0, 1), as many;
  // undefined: to the nearest.
  struct Steps {
    at::Tensor scale, zero;  // [O, G] float32
  };
  Steps steps(const Range& range) const;                // scales as they are stored
  Steps constant_steps(const at::Tensor& scale) const;  // of a symmetry that stores no zero point
  at::Tensor round_trip(const at::Tensor& groups, const Steps& steps, const at::Tensor& dither = {}) const;
  at::Tensor round_trip(const at::Tensor& groups, const Range& range) const { return round_trip(groups, steps(range)); }
  // The same for training: gradients with respect to groups and steps pass straight through the rounding.
  at::Tensor trainable_round_trip(const at::Tensor& groups, const Steps& steps, const at::Tensor& dither = {}) const;

 private:
  bool is_asymmetric() const { return config().symmetry == "asymmetric"; }
  bool stores_minimum() const { return config().stores_minimum(); }
  bool stores_zero() const { return is_asymmetric() && !stores_minimum(); }
  double constant_zero() const;                                                   // of the other symmetries
  at::Tensor exact_scale(const Range& range) const;                               // [O, G]
  at::Tensor zero(const Range& range, const at::Tensor& scale) const;             // [O, G] float32
  at::Tensor shift(const Parameters& parameters, const at::Tensor& scale) const;  // z − o, [O, G]
  // Scales of 0 replaced by ones so small that all levels of their group are equal, so that one can divide by them.
  at::Tensor nonzero_scale(const Parameters& parameters) const;
};

}  // namespace quant
