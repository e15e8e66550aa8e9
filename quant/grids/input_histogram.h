// How the inputs of a linear are distributed over the calibration text, in memory that does not grow with the text: the
// exact minimum and maximum, and counts of values in kBins equal bins over [−2^e, 2^e). When a value falls outside, e
// grows and neighbouring bins are merged, which loses nothing: every edge stays an edge. The widths of bins are
// between 1/2048 and 1/1024 of the largest magnitude; percentiles and searched ranges are known to that.
#pragma once

#include "quant/grids/range_search.h"

namespace quant {

class InputHistogram {
 public:
  static constexpr int64_t kBins = 4096;

  // groups: equal runs of columns with a distribution each. counts: whether bins are kept beside minimum and maximum.
  InputHistogram(int64_t groups, bool counts) : groups_(groups), keeps_counts_(counts) {}

  void add(const at::Tensor& x);  // [..., I], any float dtype
  bool empty() const { return !range_.lo.defined(); }

  const Range& range() const { return range_; }  // [1, G]: minimum and maximum, widened to contain 0
  // [1, G]: from the (100 − value)-th to the value-th percentile, rounded away from 0 to a bin's edge, within range().
  Range percentile(double value) const;
  at::Tensor centres() const;  // [1, G, kBins] float32
  at::Tensor counts() const;   // [1, G, kBins] float32

 private:
  void widen(const at::Tensor& largest);  // [G]

  int64_t groups_;
  bool keeps_counts_;
  Range range_;
  at::Tensor limit_;   // [G] float32: 2^e
  at::Tensor counts_;  // [G, kBins] int64
};

}  // namespace quant
