// What is known of inputs without keeping them, against the sorted values.
#include "quant/grids/input_histogram.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

namespace quant {
namespace {

constexpr int64_t kColumnsOfInputs = 12;

// Batches whose values grow, so that bins are merged on the way: [7, 12] each.
std::vector<at::Tensor> growing_batches() {
  at::manual_seed(31);
  std::vector<at::Tensor> all;
  for (const double size : {1e-3, 0.1, 1.0, 30.0}) all.push_back(at::randn({7, kColumnsOfInputs}) * size);
  return all;
}

InputHistogram histogram_of(const std::vector<at::Tensor>& batches, int64_t groups = 1) {
  InputHistogram histogram(groups, /*counts=*/true);
  for (const at::Tensor& x : batches) histogram.add(x);
  return histogram;
}

// The values of group g of G, ascending.
std::vector<float> sorted(const std::vector<at::Tensor>& batches, int64_t g, int64_t groups) {
  const int64_t size = kColumnsOfInputs / groups;
  const at::Tensor all = at::cat(batches).narrow(1, g * size, size).contiguous();
  std::vector<float> values(all.const_data_ptr<float>(), all.const_data_ptr<float>() + all.numel());
  std::sort(values.begin(), values.end());
  return values;
}

TEST(InputHistogram, KnowsMinimumAndMaximumOfEveryGroupExactly) {
  const auto batches = growing_batches();
  const InputHistogram histogram = histogram_of(batches, 3);
  for (int64_t g = 0; g < 3; ++g) {
    const std::vector<float> values = sorted(batches, g, 3);
    EXPECT_EQ(histogram.range().lo[0][g].item<float>(), values.front());
    EXPECT_EQ(histogram.range().hi[0][g].item<float>(), values.back());
  }
}

TEST(InputHistogram, KnowsPercentilesToTheWidthOfABin) {
  const auto batches = growing_batches();
  for (const int64_t groups : {1, 3}) {
    const InputHistogram histogram = histogram_of(batches, groups);
    for (const double value : {60.0, 90.0, 99.0, 100.0}) {
      const Range found = histogram.percentile(value);
      for (int64_t g = 0; g < groups; ++g) {
        const std::vector<float> values = sorted(batches, g, groups);
        const auto wanted = static_cast<size_t>(std::ceil(static_cast<double>(values.size()) * value / 100));
        const double hi = std::max(values[wanted - 1], 0.0f), lo = std::min(values[values.size() - wanted], 0.0f);
        const double bin = std::max(values.back(), -values.front()) / 1024;
        EXPECT_GE(found.hi[0][g].item<double>(), hi) << value;
        EXPECT_LE(found.hi[0][g].item<double>(), hi + bin) << value;
        EXPECT_LE(found.lo[0][g].item<double>(), lo) << value;
        EXPECT_GE(found.lo[0][g].item<double>(), lo - bin) << value;
      }
    }
  }
}

TEST(InputHistogram, DoesNotDependOnTheOrderOrSizeOfBatches) {
  auto batches = growing_batches();
  const InputHistogram one = histogram_of({at::cat(batches)}), many = histogram_of(batches);
  std::reverse(batches.begin(), batches.end());
  const InputHistogram reversed = histogram_of(batches);
  for (const InputHistogram* other : {&many, &reversed}) {
    EXPECT_TRUE(at::equal(other->counts(), one.counts()));
    EXPECT_TRUE(at::equal(other->centres(), one.centres()));
  }
  EXPECT_EQ(one.counts().sum().item<int64_t>(), 4 * 7 * kColumnsOfInputs);
}

TEST(InputHistogram, OfZerosAndOfNothing) {
  EXPECT_TRUE(InputHistogram(1, true).empty());
  EXPECT_TRUE(histogram_of({at::zeros({0, kColumnsOfInputs})}).empty());
  const Range zeros = histogram_of({at::zeros({2, kColumnsOfInputs})}).percentile(99);
  EXPECT_EQ(zeros.lo.item<double>(), 0);
  EXPECT_EQ(zeros.hi.item<double>(), 0);
}

}  // namespace
}  // namespace quant
