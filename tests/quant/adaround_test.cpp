// AdaRound against itself in double with plain loops, against every choice of levels on tiny rows, and against rounding
// to nearest, than which no row is ever worse.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "tests/support/calibrated.h"

namespace quant {
namespace {

using core::message_of;

constexpr int64_t kAdaRoundRows = 24, kAdaRoundColumns = 96;

at::Tensor adaround_weights(int64_t rows = kAdaRoundRows, int64_t columns = kAdaRoundColumns) {
  at::manual_seed(3);
  return at::randn({rows, columns}) / 8;
}
std::string adaround_yaml(const std::string& options, const std::string& weight) {
  return "{method: adaround, adaround: {" + options + "}, weight: {" + weight + "}}";
}
std::string adaround_rtn(const std::string& weight) { return "{method: rtn, weight: {" + weight + "}}"; }

// δHδᵀ of every row, in double.
at::Tensor row_errors(const at::Tensor& w, const at::Tensor& approximation, const at::Tensor& h) {
  const at::Tensor d = (w - approximation).to(at::kDouble);
  return (at::mm(d, h.to(at::kDouble)) * d).sum(-1);
}
at::Tensor row_errors(const std::string& config, const at::Tensor& w, const Statistics& x) {
  return row_errors(w, decoded_as(config, w, x), x.hessian);
}

std::vector<std::string> adaround_grids() {
  return {"bits: 2, group_size: 32",
          "bits: 1, group_size: 16, symmetry: midrise",
          "bits: 3, group_size: -1, symmetry: signed_full, scale_bits: 4",
          "bits: 2, group_size: 0, symmetry: span",
          "bits: 4, group_size: 48, zero_point: float, clip: 0.7, offset: 0.25",
          "bits: 8, group_size: 32, symmetry: narrow",
          "bits: 3, group_size: 32, codebook: normal_float",
          "bits: 2, group_size: 32, codebook: lloyd_max, range: mse",
          "bits: 2, group_size: 32, codebook: levels, levels: [-2, -0.5, 0.25, 1], clip: 0.8"};
}

// ---- what it is for ----

TEST(AdaRound, NoRowIsWorseThanRoundedToNearest) {
  const at::Tensor w = adaround_weights();
  for (const Statistics& x : {statistics_of(correlated_inputs(4 * kAdaRoundColumns, kAdaRoundColumns)),
                              statistics_of(at::randn({3, kAdaRoundColumns})), statistics_with(at::zeros({96, 96}))}) {
    for (const std::string& grid : adaround_grids()) {
      const at::Tensor nearest = row_errors(adaround_rtn(grid), w, x),
                       found = row_errors(adaround_yaml("iterations: 60", grid), w, x);
      EXPECT_TRUE((found <= nearest * (1 + 1e-5) + 1e-9).all().item<bool>()) << grid << "\n"
                                                                             << at::stack({nearest, found}, 1);
    }
  }
}

TEST(AdaRound, HasALowerOutputErrorThanRoundingToNearestOnEveryGrid) {
  const Statistics x = statistics_of(correlated_inputs(4 * kAdaRoundColumns, kAdaRoundColumns));
  const at::Tensor w = adaround_weights();
  for (const std::string& grid : adaround_grids()) {
    const double nearest = row_errors(adaround_rtn(grid), w, x).sum().item<double>();
    EXPECT_LT(row_errors(adaround_yaml("", grid), w, x).sum().item<double>(), 0.85 * nearest) << grid;
  }
}

// All 2^8 ways to take the level below or above.
TEST(AdaRound, ClosesMostOfTheGapToTheBestChoiceOfLevelsOnTinyRows) {
  constexpr int64_t kTiny = 8;
  const Statistics x = statistics_of(correlated_inputs(64, kTiny));
  const at::Tensor w = adaround_weights(60, kTiny);
  const char* grid = "bits: 2, group_size: 8";
  const QuantConfig config = quant_config(adaround_yaml("", grid));
  Single single(w, config, x);
  const Encoded encoded = single.by(*config.methods.at("adaround")).encoded;
  const ElementGrid levels = as_elements(*single.format).element_grid(encoded.parameters, w.size(0), kTiny);
  const at::Tensor below = at::floor(w / levels.scale + levels.shift).clamp(0, levels.top - 1);
  at::Tensor least = at::full({w.size(0)}, core::kInfinity, at::kDouble);
  for (int64_t choice = 0; choice < (1 << kTiny); ++choice) {
    at::Tensor up = at::zeros({1, kTiny});
    for (int64_t j = 0; j < kTiny; ++j) up[0][j] = static_cast<double>(choice >> j & 1);
    least = at::minimum(least, row_errors(w, levels.decode((below + up).to(at::kByte)), x.hessian));
  }
  const at::Tensor found = row_errors(w, levels.decode(encoded.codes), x.hessian);
  EXPECT_TRUE((found >= least * (1 - 1e-9)).all().item<bool>());
  const double optimum = least.sum().item<double>(),
               nearest = row_errors(adaround_rtn(grid), w, x).sum().item<double>();
  EXPECT_LT(found.sum().item<double>(), optimum + 0.5 * (nearest - optimum))
      << "optimum " << optimum << ", nearest " << nearest;
}

// ---- the algorithm, slowly ----

// One row; which weights go up.
std::vector<bool> slow_adaround(const std::vector<double>& below, const std::vector<double>& gap,
                                const std::vector<double>& fraction, const at::Tensor& h, double nearest,
                                int64_t iterations, double lr, double lambda, double warm_up) {
  const auto I = static_cast<int64_t>(gap.size());
  std::vector<double> v(I), mean(I), square(I), up(I);
  const auto sigmoid = [](double x) { return 1 / (1 + std::exp(-x)); };
  for (int64_t j = 0; j < I; ++j) v[j] = -std::log(1.2 / (fraction[j] + 0.1) - 1);
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t j = 0; j < I; ++j) up[j] = std::clamp(1.2 * sigmoid(v[j]) - 0.1, 0.0, 1.0);
    const double done = (static_cast<double>(i) / static_cast<double>(iterations) - warm_up) / (1 - warm_up);
    const double beta = 2 + 9 * (1 + std::cos(done * std::numbers::pi));
    for (int64_t j = 0; j < I; ++j) {
      double gradient = 0;
      for (int64_t c = 0; c < I; ++c)
        gradient -=
            2 * (below[c] - gap[c] * up[c]) * h[c][j].item<double>() * gap[j] * static_cast<double>(I) / nearest;
      const double side = 2 * up[j] - 1;
      if (done >= 0)
        gradient -= lambda * 2 * beta * std::pow(std::abs(side), beta - 1) * (side > 0 ? 1 : side < 0 ? -1 : 0);
      const double s = sigmoid(v[j]), stretched = 1.2 * s - 0.1;
      gradient *= stretched < 0 || stretched > 1 ? 0 : 1.2 * s * (1 - s);
      mean[j] = 0.9 * mean[j] + 0.1 * gradient;
      square[j] = 0.999 * square[j] + 0.001 * gradient * gradient;
      const auto t = static_cast<double>(i + 1);
      v[j] -= lr * mean[j] / (1 - std::pow(0.9, t)) / (std::sqrt(square[j] / (1 - std::pow(0.999, t))) + 1e-8);
    }
  }
  std::vector<bool> result;
  for (const double value : v) result.push_back(value >= 0);
  return result;
}

TEST(AdaRound, AgreesWithTheSlowOneInDouble) {
  constexpr int64_t kFew = 12, kShort = 16;
  const Statistics x = statistics_of(correlated_inputs(100, kShort));
  const at::Tensor w = adaround_weights(kFew, kShort);
  const QuantConfig config =
      quant_config(adaround_yaml("iterations: 80, lr: 0.05, lambda: 0.5, warm_up: 0.25", "bits: 2, group_size: 8"));
  Single single(w, config, x);
  const Encoded encoded = single.by(*config.methods.at("adaround")).encoded;
  const ElementGrid levels = as_elements(*single.format).element_grid(encoded.parameters, kFew, kShort);
  const at::Tensor nearest = levels.encode(w);
  const at::Tensor position = (w.reshape({kFew, 2, 8}) / levels.scale.unsqueeze(-1) + levels.shift.unsqueeze(-1));
  const at::Tensor floor = at::floor(position).clamp(0, 2), fraction = (position - floor).reshape(w.sizes());
  const at::Tensor codes = floor.reshape(w.sizes()).to(at::kByte), low = levels.decode(codes);
  const at::Tensor gap = levels.decode(codes + 1) - low;
  const at::Tensor before = row_errors(w, levels.decode(nearest), x.hessian);
  int64_t same = 0, up = 0;
  for (int64_t row = 0; row < kFew; ++row) {
    std::vector<double> b, g, f;
    for (int64_t j = 0; j < kShort; ++j) {
      b.push_back((w[row][j] - low[row][j]).item<double>());
      g.push_back(gap[row][j].item<double>());
      f.push_back(std::clamp(fraction[row][j].item<double>(), 0.0, 1.0));
    }
    const auto slow = slow_adaround(b, g, f, x.hessian, before[row].item<double>(), 80, 0.05, 0.5, 0.25);
    at::Tensor found = codes[row].clone();
    for (int64_t j = 0; j < kShort; ++j) found[j] += slow[j] ? 1 : 0;
    const at::Tensor error =
        row_errors(w.slice(0, row, row + 1),
                   levels.decode(found.unsqueeze(0).expand({kFew, kShort})).slice(0, row, row + 1), x.hessian);
    if (error.item<double>() >= before[row].item<double>()) found = nearest[row];
    same += (found == encoded.codes[row]).sum().item<int64_t>();
    up += (encoded.codes[row] != nearest[row]).sum().item<int64_t>();
  }
  EXPECT_GE(same, kFew * kShort - 2);
  EXPECT_GT(up, 10) << "weights that are not rounded to nearest";
}

// ---- what must not matter ----

TEST(AdaRound, WithTheIdentityAsHessianIsRoundingToNearest) {
  const at::Tensor w = adaround_weights();
  for (const std::string& grid : adaround_grids()) {
    const Encoded found =
        quantized_as(adaround_yaml("iterations: 40", grid), w, statistics_with(at::eye(kAdaRoundColumns))).encoded;
    EXPECT_TRUE(at::equal(found.codes, quantized_as(adaround_rtn(grid), w, {}).encoded.codes)) << grid;
  }
}

TEST(AdaRound, WithoutAStepIsRoundingToNearest) {
  const Statistics x = statistics_of(correlated_inputs(4 * kAdaRoundColumns, kAdaRoundColumns));
  for (const std::string& grid : adaround_grids()) {
    EXPECT_TRUE(at::equal(quantized_as(adaround_yaml("iterations: 0", grid), adaround_weights(), x).encoded.codes,
                          quantized_as(adaround_rtn(grid), adaround_weights(), x).encoded.codes))
        << grid;
  }
}

TEST(AdaRound, RowsAreIndependentHoweverManyThereAre) {
  const Statistics x = statistics_of(correlated_inputs(600, 512));
  const at::Tensor w = adaround_weights(2100, 512);  // more than are worked on at a time
  const char* config = "iterations: 3, lr: 0.3";
  const at::Tensor all = quantized_as(adaround_yaml(config, "bits: 2"), w, x).encoded.codes,
                   last = quantized_as(adaround_yaml(config, "bits: 2"), w.slice(0, 2000), x).encoded.codes;
  EXPECT_GE((all.slice(0, 2000) == last).to(at::kFloat).mean().item<double>(), 0.999);
}

TEST(AdaRound, TwoRunsAreBitIdentical) {
  const Statistics x = statistics_of(correlated_inputs(4 * kAdaRoundColumns, kAdaRoundColumns));
  const std::string config = adaround_yaml("iterations: 50", "bits: 2, group_size: 32");
  EXPECT_TRUE(at::equal(quantized_as(config, adaround_weights(), x).encoded.codes,
                        quantized_as(config, adaround_weights(), x).encoded.codes));
}

// ---- corners ----

TEST(AdaRound, FallsBackToRoundingToNearestAndSaysWhy) {
  const char* grid = "bits: 3, group_size: 32";
  at::Tensor broken = at::eye(kAdaRoundColumns);
  broken[2][3] = std::numeric_limits<float>::infinity();
  for (const auto& [x, reason] : {std::pair{statistics_with(broken), "the Hessian is not finite"},
                                  std::pair{Statistics{}, "no calibration token reached it"}}) {
    const Quantized result = quantized_as(adaround_yaml("", grid), adaround_weights(), x);
    EXPECT_EQ(result.fallback, reason);
    EXPECT_TRUE(at::equal(result.encoded.codes, quantized_as(adaround_rtn(grid), adaround_weights(), x).encoded.codes));
  }
}

TEST(AdaRound, SaysHowManyRowsItChanged) {
  const Statistics none = statistics_with(at::eye(kAdaRoundColumns)),
                   x = statistics_of(correlated_inputs(400, kAdaRoundColumns));
  EXPECT_EQ(quantized_as(adaround_yaml("iterations: 5", "bits: 3, group_size: 32"), adaround_weights(), none).note,
            "0 of 24 rows changed");
  EXPECT_EQ(quantized_as(adaround_yaml("", "bits: 2, group_size: 32"), adaround_weights(), x).note,
            "24 of 24 rows changed");
}

TEST(Mistakes, OfAdaRoundAreToldBeforeTheRun) {
  const auto model = toy::skeleton();
  EXPECT_EQ(
      message_of([&] { assign(quant_config(adaround_yaml("", "rounding: stochastic")), *model); }),
      "model.layers.0.mlp.up_proj: adaround: it chooses the rounding itself. Set quant.weight.rounding: nearest.");
  EXPECT_EQ(message_of([] { quant_config("adaround: {beta: [20]}"); }),
            "a.yaml:1: quant.adaround.beta needs two numbers, the first and the last exponent, not 1.");
  EXPECT_EQ(message_of([] { quant_config("adaround: {lr: 0}"); }),
            "a.yaml:1: quant.adaround.lr is out of range: 0. Write a number in (0, 10].");
}

}  // namespace
}  // namespace quant
