// Levels of least squared error for given values: Lloyd's and Max's fixed point, in which every level is the mean of
// the values nearest to it (Lloyd 1957/1982; Max 1960). Values are sorted once, so an iteration costs a binary search
// per level.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace quant {

class LloydMax {
 public:
  // values: any shape, float32, at least one; weights: the same shape, or undefined: 1.
  LloydMax(const at::Tensor& values, const at::Tensor& weights);

  // `count` levels that start at equal shares of the values.
  std::vector<double> levels(int64_t count) const;
  // From these levels on; level `fixed` stays where it is (-1: none does).
  std::vector<double> improved(std::vector<double> levels, int64_t fixed) const;

 private:
  double moved(std::vector<double>& levels, int64_t fixed) const;  // one iteration; the largest move

  std::vector<float> values_;                      // ascending
  std::vector<double> weight_, step_in_training_;  // sums of w and w · v over the first n values
};

}  // namespace quant
