#include "quant/grids/lloyd_max.h"

#include <ATen/ATen.h>

#include <algorithm>

namespace quant {

namespace {

constexpr int kIterations = 200;
constexpr double kStill = 1e-6;  // a largest move, relative to the largest value, after which nothing more happens

}  // namespace

LloydMax::LloydMax(const at::Tensor& values, const at::Tensor& weights) {
  const auto [sorted, order] = at::sort(values.detach().cpu().reshape(-1));
  const at::Tensor ordered =
      weights.defined() ? weights.detach().cpu().reshape(-1).index_select(0, order) : at::Tensor();
  const int64_t count = sorted.numel();
  values_.assign(sorted.const_data_ptr<float>(), sorted.const_data_ptr<float>() + count);
  weight_.resize(count + 1);
  step_in_training_.resize(count + 1);
  for (int64_t i = 0; i < count; ++i) {
    const double w = ordered.defined() ? ordered.const_data_ptr<float>()[i] : 1.0;
    weight_[i + 1] = weight_[i] + w;
    step_in_training_[i + 1] = step_in_training_[i] + w * values_[i];
  }
}

std::vector<double> LloydMax::levels(int64_t count) const {
  std::vector<double> start;
  for (int64_t k = 0; k < count; ++k) {
    const double share = (static_cast<double>(k) + 0.5) / static_cast<double>(count);
    start.push_back(values_[static_cast<size_t>(share * static_cast<double>(values_.size()))]);
  }
  return improved(std::move(start), -1);
}

std::vector<double> LloydMax::improved(std::vector<double> levels, int64_t fixed) const {
  const double still = kStill * std::max<double>(std::abs(values_.front()), std::abs(values_.back()));
  for (int i = 0; i < kIterations && moved(levels, fixed) > still; ++i) {
  }
  return levels;
}

double LloydMax::moved(std::vector<double>& levels, int64_t fixed) const {
  double most = 0;
  size_t begin = 0;  // of the values nearest to level k
  const std::vector<double> old = levels;
  for (size_t k = 0; k < old.size(); ++k) {
    size_t end = values_.size();
    if (k + 1 < old.size()) {
      const double middle = (old[k] + old[k + 1]) / 2;
      end = std::upper_bound(values_.begin(), values_.end(), middle) - values_.begin();
    }
    const double weight = weight_[end] - weight_[begin];
    if (weight > 0 && static_cast<int64_t>(k) != fixed)
      levels[k] = (step_in_training_[end] - step_in_training_[begin]) / weight;
    most = std::max(most, std::abs(levels[k] - old[k]));
    begin = end;
  }
  return most;
}

}  // namespace quant
