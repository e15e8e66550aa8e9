#include "experiments/analysis/walk_cost.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

namespace experiments {

namespace {

constexpr int64_t kRows = 1024;  // tokens of a product, calibration.batch_tokens by default

// Multiply-accumulates a second.
double speed_of_products(int64_t rows, int64_t width) {
  static std::map<std::pair<int64_t, int64_t>, double> measured;
  double& speed = measured[{rows, width}];
  if (speed > 0) return speed;
  const at::Tensor x = at::ones({rows, width}), w = at::ones({width, width});
  at::mm(x, w);
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0, macs = 0;
  while (seconds < 0.1) {
    at::mm(x, w);
    macs += static_cast<double>(rows * width * width);
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return speed = macs / seconds;
}

}  // namespace

double macs_of_block(core::Model& model, int64_t block, int64_t T, core::Half only) {
  const auto runs = [&](core::Half half) { return only == core::Half::none || half == only; };
  double sum = 0;
  if (runs(core::Half::attention)) sum += static_cast<double>(T * model.shape().heads * model.shape().head_width);
  for (const core::Slot* slot : model.block(block).slots()) {
    if (!runs(core::half_of(slot->role()))) continue;
    sum += slot->token_fraction() * static_cast<double>(slot->out_features() * slot->in_features());
  }
  return sum;
}

double macs_of_quantizing(core::Model& model, int64_t block, int64_t tokens, int64_t T, bool hessian,
                          const std::function<bool(const core::Slot&)>& covers) {
  if (!hessian) return 0;
  const auto n = static_cast<double>(tokens);
  double sum = 0;
  for (const core::LinearGroup& group : model.block(block).groups()) {
    const auto I = static_cast<double>(group.slots.front()->in_features());
    double outputs = 0;
    for (const core::Slot* slot : group.slots) outputs += covers(*slot) ? static_cast<double>(slot->out_features()) : 0;
    if (outputs == 0) continue;
    sum += group.slots.front()->token_fraction() * n * I * I;  // H
    sum += I * I * I + outputs * I * I / 2;  // its factors, and errors that are spread over later columns
  }
  return sum == 0 ? 0 : sum + n * macs_of_block(model, block, T);
}

std::string duration(double seconds) {
  if (seconds < 60) return fmt::format("{:.0f} s", seconds);
  return seconds < 3600 ? fmt::format("{:.0f} min", seconds / 60) : fmt::format("{:.1f} h", seconds / 3600);
}

std::string time_of(double macs, int64_t rows, int64_t width) {
  return fmt::format("{} at least: an estimate, {:.1e} multiply-accumulates at the speed of a matrix product",
                     duration(macs / speed_of_products(rows, width)), macs);
}

void WalkCosts::add(const std::vector<WalkCost>& walks, int64_t width) {
  for (const WalkCost& walk : walks) walks_.emplace(walk.key, walk);
  width_ = std::max(width_, width);
}

std::vector<std::string> WalkCosts::lines() const {
  std::set<std::string> lines;
  double macs = 0;
  for (const auto& [key, walk] : walks_) {
    lines.insert(walk.line);
    macs += walk.macs;
  }
  std::vector<std::string> all(lines.begin(), lines.end());
  if (macs > 0) all.push_back("walks that measure: " + time_of(macs, kRows, width_));
  return all;
}

}  // namespace experiments
