// A codebook: level of code k is s (t_k + o), with one table t per tensor and one scale s = α / max |t| per group,
// α = max |w|. The table is ascending and stored in scale_dtype, whatever it comes from:
//   lloyd_max     least squared error on the groups divided by α, p α under a searched range (quant/grids/lloyd_max.h);
//   the
//                 level of largest magnitude is ±1, as the definition of s demands
//   normal_float  quantiles of a normal distribution with a level at 0 (Dettmers et al. 2023, arXiv 2305.14314,
//                 appendix E), generalised from 4 bits
//   levels        given in the configuration
#pragma once

#include "quant/grids/scalar_grid.h"

namespace quant {

// 2^bits ascending levels, of which the largest magnitude is 1: 2^(bits−1) − 1 negative ones, 0, 2^(bits−1) positive
// ones. bits ≥ 2.
std::vector<double> normal_float(int64_t bits);

class CodebookGrid : public ScalarGrid {
 public:
  explicit CodebookGrid(const WeightConfig& config, Place place = {})
      : ScalarGrid(config, std::move(place), /*is_signed=*/false) {}

  std::string name() const override { return "codebook"; }

  Parameters fit(const at::Tensor& w, const Statistics& x) const override;
  at::Tensor decode(const at::Tensor& codes, const Parameters& parameters) const override;
  // The scale (quant/grids/scale_format.h), table [2^b], offset [1] if there is one.
  Parameters layout(int64_t out_features, int64_t in_features) const override;
  ElementGrid element_grid(const Parameters& parameters, int64_t out_features, int64_t in_features) const override;

 private:
  at::Tensor stored_table(const std::vector<double>& levels, const at::Tensor& like) const;  // [2^b], rounded
  at::Tensor lloyd_max_table(const at::Tensor& groups, const Statistics& x) const;
  Range range_for(const at::Tensor& table, const at::Tensor& groups, const Statistics& x) const;
  at::Tensor round_trip(const at::Tensor& table, const at::Tensor& groups, const Range& range) const;
};

}  // namespace quant
