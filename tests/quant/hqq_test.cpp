// HQQ against itself in double with plain loops, against the exact optimum on tiny groups, and against rounding to
// nearest, than which it is never worse in the norm that it minimises.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>

#include "quant/grids/make_format.h"
#include "tests/quant/grid_cases.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

using core::message_of;

const std::string kGrid = "symmetry: asymmetric, zero_point: float";

std::string hqq_yaml(const std::string& method, const std::string& options, const std::string& weight) {
  return "{method: " + method + ", " + method + ": {" + options + "}, weight: {" + kGrid + ", " + weight + "}}";
}
Encoded hqq(const std::string& options, const std::string& weight, const at::Tensor& w) {
  return quantized_as(hqq_yaml("hqq", options, weight), w, {}).encoded;
}
Encoded hqq_rtn(const std::string& weight, const at::Tensor& w) {
  return quantized_as("{method: rtn, weight: {" + kGrid + ", " + weight + "}}", w, {}).encoded;
}

at::Tensor hqq_weights(int64_t rows = 16, int64_t columns = 192) {
  at::manual_seed(5);
  return at::randn({rows, columns}) / 8;
}

// One group: Σ |w − s (k − z + o)|^p for the nearest codes k.
double loss(const std::vector<double>& w, double s, double z, double o, double top, double p) {
  double sum = 0;
  for (const double value : w) {
    const double k = std::clamp(std::nearbyint(value / s + z - o), 0.0, top);
    sum += std::pow(std::abs(value - s * (k - z + o)), p);
  }
  return sum;
}

double as_half(double value) { return static_cast<double>(static_cast<float>(c10::Half(static_cast<float>(value)))); }

struct Options {
  double p = 0.7, beta = 10, kappa = 1.01;
  int64_t iterations = 20;
  bool early_stop = true;
};

// The zero point that the iteration finds from z.
double slow_hqq_zero(const std::vector<double>& w, double s, double z, double o, double top, Options options) {
  double best = z, least = loss(w, s, z, o, top, options.p);
  for (int64_t i = 0; i < options.iterations; ++i) {
    double sum = 0;
    for (const double value : w) {
      const double k = std::clamp(std::nearbyint(value / s + z - o), 0.0, top);
      const double r = value - s * (k - z + o), size = std::abs(r);
      const double shrunk = r == 0 ? 0 : std::max(0.0, size - std::pow(size, options.p - 1) / options.beta);
      sum += k - (value - std::copysign(shrunk, r)) / s;
    }
    z = as_half(sum / static_cast<double>(w.size()) + o);
    options.beta *= options.kappa;
    const double found = loss(w, s, z, o, top, options.p);
    if (found < least) {
      best = z;
      least = found;
    } else if (options.early_stop) {
      break;
    }
  }
  return best;
}

std::vector<double> group(const at::Tensor& w, int64_t row, int64_t first, int64_t size) {
  std::vector<double> values;
  for (int64_t j = 0; j < size; ++j) values.push_back(w[row][first + j].item<double>());
  return values;
}

TEST(Hqq, FindsTheZeroPointsOfTheSlowOneInDouble) {
  const at::Tensor w = hqq_weights();
  const std::vector<std::pair<std::string, Options>> cases{
      {"", {}},
      {"early_stop: false", {.early_stop = false}},
      {"beta: 200, kappa: 1.5", {.beta = 200, .kappa = 1.5}},
      {"beta: 30, lp_norm: 1, iterations: 5", {.p = 1, .beta = 30, .iterations = 5}}};
  for (const auto& [text, options] : cases) {
    for (const double offset : {0.0, 0.25}) {
      SCOPED_TRACE(fmt::format("{} | offset {}", text, offset));
      const std::string grid = fmt::format("bits: 2, group_size: 32, offset: {}", offset);
      const Encoded start = hqq_rtn(grid, w), fast = hqq(text, grid, w);
      EXPECT_TRUE(at::equal(fast.parameters.at("scale"), start.parameters.at("scale"))) << "scales stay";
      int64_t same = 0, groups = 0;
      for (int64_t row = 0; row < w.size(0); ++row) {
        for (int64_t g = 0; g < 6; ++g, ++groups) {
          const auto values = group(w, row, 32 * g, 32);
          const double s = start.parameters.at("scale")[row][g].item<double>();
          const double slow =
              slow_hqq_zero(values, s, start.parameters.at("zero_point")[row][g].item<double>(), offset, 3, options);
          same += std::abs(fast.parameters.at("zero_point")[row][g].item<double>() - slow) < 2e-3 ? 1 : 0;
        }
      }
      EXPECT_GE(same, groups - 2) << "of " << groups;  // a code at a tie may fall to the other side
    }
  }
}

// For p < 1 the loss is concave in z between its kinks, so its minimum is a z with which some weight is exact.
TEST(Hqq, LiesBetweenTheExactOptimumAndRoundingToNearestOnTinyGroups) {
  constexpr double kP = 0.7;
  const at::Tensor w = hqq_weights(200, 4);
  const char* grid = "bits: 2, group_size: 4";
  const Encoded start = hqq_rtn(grid, w), fast = hqq("early_stop: false", grid, w);
  double optimum = 0, found = 0, nearest = 0;
  for (int64_t row = 0; row < w.size(0); ++row) {
    const auto values = group(w, row, 0, 4);
    const double s = start.parameters.at("scale")[row][0].item<double>();
    double least = core::kInfinity;
    for (const double exact : values) {
      for (int64_t k = 0; k < 4; ++k) least = std::min(least, loss(values, s, k - exact / s, 0, 3, kP));
    }
    const double here = loss(values, s, fast.parameters.at("zero_point")[row][0].item<double>(), 0, 3, kP);
    EXPECT_GE(here, least * (1 - 1e-6)) << "row " << row;
    optimum += least;
    found += here;
    nearest += loss(values, s, start.parameters.at("zero_point")[row][0].item<double>(), 0, 3, kP);
  }
  EXPECT_LT(found, nearest - 0.05 * (nearest - optimum)) << "optimum " << optimum << ", nearest " << nearest;
}

// Σ |w − ŵ|^p per group as stored, [groups].
at::Tensor losses(const Encoded& encoded, const WeightConfig& config, const at::Tensor& w, double p) {
  const auto format = make_format(config, "", w.size(1));
  const at::Tensor error = (w - format->decode(encoded.codes, encoded.parameters)).to(at::kDouble).abs().pow(p);
  const at::Tensor& zero = encoded.parameters.at("zero_point");
  return error.reshape({zero.numel(), -1}).sum(-1);
}

TEST(Hqq, IsNeverWorseThanRoundingToNearestInItsNorm) {
  for_all(cases({1, 2, 8}, {1, 4, -1, 0},
                {"clip: 1", "scale_dtype: bfloat16", "range: mse, offset: -0.5", "scale_bits: 3, clip: 0.6"}),
          [](const Case& c) {
            const WeightConfig config = weight_config("{" + c.variables + ", " + kGrid + "}");
            for (const auto& [options, p] :
                 {std::pair{"", 0.7}, {"beta: 1000, early_stop: false", 0.7}, {"lp_norm: 0.3", 0.3}}) {
              const at::Tensor before = losses(hqq_rtn(c.variables, c.w), config, c.w, p),
                               after = losses(hqq(options, c.variables, c.w), config, c.w, p);
              EXPECT_TRUE((after <= before * (1 + 1e-4) + 1e-6).all().item<bool>()) << options << "\n"
                                                                                    << at::stack({before, after}, 1);
            }
          });
}

TEST(Hqq, LowersTheErrorOfNormalWeightsAtTwoBits) {
  const at::Tensor w = hqq_weights();
  const WeightConfig config = weight_config("{bits: 2, group_size: 64, " + kGrid + "}");
  const char* grid = "bits: 2, group_size: 64";
  const double before = losses(hqq_rtn(grid, w), config, w, 0.7).sum().item<double>();
  EXPECT_LT(losses(hqq("", grid, w), config, w, 0.7).sum().item<double>(), 0.99 * before);
}

TEST(Hqq, StoresZeroPointsAsTheirDtypeHoldsThemAndTheNearestCodes) {
  const at::Tensor w = hqq_weights();
  for (const char* dtype : {"float16", "bfloat16", "float32"}) {
    const std::string grid = std::string("bits: 3, group_size: 32, scale_dtype: ") + dtype;
    const Encoded encoded = hqq("", grid, w);
    const Parameter& zero = *std::find_if(encoded.parameters.begin(), encoded.parameters.end(),
                                          [](const Parameter& p) { return p.name == "zero_point"; });
    EXPECT_TRUE(at::equal(zero.tensor, zero.tensor.to(zero.stored_dtype).to(at::kFloat))) << dtype;
    const auto format = make_format(weight_config("{" + grid + ", " + kGrid + "}"), "", w.size(1));
    EXPECT_TRUE(at::equal(encoded.codes, format->encode(w, encoded.parameters).codes)) << dtype;
  }
}

TEST(Hqq, WithoutAStepIsRoundingToNearest) {
  const Encoded none = hqq("iterations: 0", "bits: 3", hqq_weights()), nearest = hqq_rtn("bits: 3", hqq_weights());
  EXPECT_TRUE(at::equal(none.codes, nearest.codes));
  EXPECT_TRUE(at::equal(none.parameters.at("zero_point"), nearest.parameters.at("zero_point")));
}

// A matrix of more weights than are worked on at a time.
TEST(Hqq, TreatsRowsAlikeHoweverManyThereAre) {
  const at::Tensor w = hqq_weights(600, 512);
  const Encoded all = hqq("", "bits: 2", w), some = hqq("", "bits: 2", w.slice(0, 550));
  EXPECT_TRUE(at::equal(all.codes.slice(0, 550), some.codes));
}

TEST(Mistakes, OfHqqAreToldBeforeTheRun) {
  const auto model = toy::skeleton();
  const std::string expected =
      "model.layers.0.mlp.up_proj: hqq: it moves float zero points, and this grid has none. Set quant.weight: "
      "{symmetry: asymmetric, zero_point: float} and leave codebook: uniform.";
  for (const char* grid : {"{}", "{symmetry: midrise}", "{codebook: normal_float}"}) {
    const QuantConfig config = quant_config(std::string("{method: hqq, weight: ") + grid + "}");
    EXPECT_EQ(message_of([&] { assign(config, *model); }), expected) << grid;
  }
  EXPECT_EQ(message_of([] { quant_config("hqq: {lp_norm: 1.5}"); }),
            "a.yaml:1: quant.hqq.lp_norm is out of range: 1.5. Write a number in (0, 1].");
  EXPECT_EQ(message_of([&] { assign(quant_config("{method: hqq, weight: {" + kGrid + "}}"), *model); }), "no error");
}

}  // namespace
}  // namespace quant
