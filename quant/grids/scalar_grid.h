// Grids of scalar levels: every weight of a group of S takes one of 2^b levels s · t_k, with a scale s per group. What
// a family adds is its levels; range, clip, offset, rounding and the storage of scales are common.
#pragma once

#include "quant/grids/range_search.h"
#include "quant/grids/scale_format.h"
#include "quant/grids/weight_format.h"

namespace quant {

class ScalarGrid : public ElementFormat {
 public:
  int64_t groups(int64_t in_features) const override;
  Needs needs() const override { return {.mean_square = config().range_kind() == "importance"}; }
  Encoded encode(const at::Tensor& w, Parameters parameters) const override;
  std::optional<Parameters> rescaled(const Parameters& parameters, const at::Tensor& scale) const override;
  std::optional<PackedForm> packed_form(const Parameters& parameters, int64_t out_features,
                                        int64_t in_features) const override {
    return PackedForm{element_grid(parameters, out_features, in_features)};
  }

 protected:
  // is_signed: scales may be negative.
  ScalarGrid(const WeightConfig& config, Place place, bool is_signed)
      : ElementFormat(config, std::move(place)), scale_format_(config, is_signed) {}

  const ScaleFormat& scale_format() const { return scale_format_; }
  int64_t top() const { return (int64_t{1} << config().bits) - 1; }  // largest code

  at::Tensor grouped(const at::Tensor& matrix) const;  // [O, I] -> [O, G, S]; the matrix as one group: [1, 1, O · I]
  std::vector<int64_t> group_shape(int64_t out_features, int64_t in_features) const;  // [O, G], or [1, 1]
  // The range that `range` and `clip` ask for. groups: [O, G, S].
  Range chosen_range(const at::Tensor& groups, const Statistics& x, const Approximate& approximate) const;

  // The offset is a parameter when the configuration has one.
  void add_offset(Parameters& layout) const;
  void set_offset(Parameters& parameters, const at::Tensor& like) const;

  // [1, 1] or [O, G] -> what ElementGrid holds.
  at::Tensor per_row(const at::Tensor& per_group, int64_t out_features) const;
  int64_t row_group(int64_t in_features) const { return in_features / groups(in_features); }
  at::Tensor dither(int64_t out_features, int64_t in_features) const;  // of ElementGrid; undefined: round to nearest

  // Mean squares of the input columns in the shape of the groups: [1, G, S], or [1, 1, O · I].
  at::Tensor importance(const Statistics& x, const at::Tensor& groups) const;

 private:
  ScaleFormat scale_format_;
};

}  // namespace quant
