#include "experiments/measure/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/random.h"

namespace experiments {

std::pair<double, double> bootstrap_interval(const std::vector<double>& values) {
  constexpr int64_t kResamples = 10'000;
  const auto n = static_cast<int64_t>(values.size());
  const auto block = std::max<int64_t>(1, std::llround(std::cbrt(static_cast<double>(n))));
  std::vector<double> before(n + 1, 0.0);  // sums of the first i values
  std::partial_sum(values.begin(), values.end(), before.begin() + 1);
  core::Random random(0, "", "moving-block bootstrap");
  std::vector<double> means;
  for (int64_t resample = 0; resample < kResamples; ++resample) {
    double sum = 0;
    for (int64_t drawn = 0; drawn < n; drawn += block) {
      const int64_t length = std::min(block, n - drawn), start = random.below(n - length + 1);
      sum += before[start + length] - before[start];
    }
    means.push_back(sum / static_cast<double>(n));
  }
  std::sort(means.begin(), means.end());
  return {means[kResamples / 40], means[kResamples - 1 - kResamples / 40]};  // 2.5 % on each side
}

}  // namespace experiments
