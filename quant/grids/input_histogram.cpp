#include "quant/grids/input_histogram.h"

#include <ATen/ATen.h>

#include <cmath>

namespace quant {

namespace {

constexpr double kFirstLimit = 0x1p-60;  // values below lie in the two bins around 0

}  // namespace

void InputHistogram::add(const at::Tensor& input) {
  if (input.numel() == 0) return;                                                              // no token of this batch
  const at::Tensor x = input.to(at::kFloat).reshape({-1, groups_, input.size(-1) / groups_});  // [m, G, S]
  const Range batch = Range::of(x.transpose(0, 1).reshape({1, groups_, -1}));
  range_ = empty() ? batch : Range{at::minimum(range_.lo, batch.lo), at::maximum(range_.hi, batch.hi)};
  if (!keeps_counts_ || !at::isfinite(range_.largest()).all().item<bool>()) return;
  widen(range_.largest().squeeze(0));
  const at::Tensor from_zero = at::floor(x / (limit_ * (2.0 / kBins)).unsqueeze(-1));  // bins, exact: powers of two
  const at::Tensor first = at::arange(groups_, limit_.options().dtype(at::kLong)).unsqueeze(-1) * kBins;
  const at::Tensor bin = (from_zero.to(at::kLong) + kBins / 2).clamp_(0, kBins - 1) + first;
  counts_ += at::bincount(bin.reshape({-1}), {}, groups_ * kBins).reshape({groups_, kBins});
}

void InputHistogram::widen(const at::Tensor& largest) {
  if (!limit_.defined()) {
    limit_ = at::full({groups_}, kFirstLimit, largest.options());
    counts_ = at::zeros({groups_, kBins}, largest.options().dtype(at::kLong));
  }
  for (int64_t g = 0; g < groups_; ++g) {
    const double reach = largest[g].item<double>();
    double limit = limit_[g].item<double>();
    for (; limit <= reach; limit *= 2) {
      const at::Tensor pairs = counts_[g].reshape({kBins / 2, 2}).sum(1);
      counts_[g].zero_().narrow(0, kBins / 4, kBins / 2).copy_(pairs);
    }
    limit_[g].fill_(limit);
  }
}

at::Tensor InputHistogram::centres() const {
  const at::Tensor bins = (at::arange(kBins, limit_.options()) + 0.5) * (2.0 / kBins) - 1;  // of [−1, 1)
  return (bins * limit_.unsqueeze(-1)).unsqueeze(0);
}

at::Tensor InputHistogram::counts() const { return counts_.to(at::kFloat).unsqueeze(0); }

Range InputHistogram::percentile(double value) const {
  const auto values = counts_[0].sum().item<int64_t>();  // of every group
  const auto wanted = static_cast<int64_t>(std::ceil(static_cast<double>(values) * value / 100));
  const auto edge = [&](const at::Tensor& counts) {  // [1, G]: from below −2^e up to here lie so many
    const at::Tensor bins = (counts.cumsum(1) < wanted).sum(1).to(at::kFloat) + 1;
    return ((bins * (2.0 / kBins) - 1) * limit_).unsqueeze(0);
  };
  const at::Tensor hi = edge(counts_), lo = -edge(counts_.flip(1));
  return {at::maximum(lo, range_.lo).clamp_max(0), at::minimum(hi, range_.hi).clamp_min(0)};
}

}  // namespace quant
