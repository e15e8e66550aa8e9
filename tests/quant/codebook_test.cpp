// Codebooks: the published table of normal_float, Lloyd's fixed point, and the grid that they make, against plain
// loops.
#include "quant/grids/codebook.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/lloyd_max.h"
#include "quant/grids/make_format.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

// ---- normal_float ----

TEST(NormalFloat, OfFourBitsIsThePublishedTable) {
  const std::vector<double> published{-1.0,
                                      -0.6961928009986877,
                                      -0.5250730514526367,
                                      -0.39491748809814453,
                                      -0.28444138169288635,
                                      -0.18477343022823334,
                                      -0.09105003625154495,
                                      0.0,
                                      0.07958029955625534,
                                      0.16093020141124725,
                                      0.24611230194568634,
                                      0.33791524171829224,
                                      0.44070982933044434,
                                      0.5626170039176941,
                                      0.7229568362236023,
                                      1.0};
  EXPECT_THAT(normal_float(4), ::testing::Pointwise(::testing::DoubleNear(1e-6), published));
}

TEST(NormalFloat, HasTwoToTheBitsAscendingLevelsWithAZero) {
  for (int64_t bits = 2; bits <= 8; ++bits) {
    const std::vector<double> levels = normal_float(bits);
    ASSERT_EQ(levels.size(), size_t{1} << bits);
    EXPECT_TRUE(std::is_sorted(levels.begin(), levels.end(), std::less_equal<>()));
    EXPECT_EQ(levels[levels.size() / 2 - 1], 0.0);
    EXPECT_EQ(levels.back(), 1.0);
  }
}

// ---- Lloyd and Max ----

double squared_error(const std::vector<double>& values, const std::vector<double>& levels) {
  double sum = 0;
  for (const double v : values) {
    double least = std::numeric_limits<double>::infinity();
    for (const double t : levels) least = std::min(least, (v - t) * (v - t));
    sum += least;
  }
  return sum;
}

at::Tensor tensor_of(const std::vector<double>& values) { return at::tensor(values, at::kFloat); }

TEST(LloydMax, FindsMaxsLevelsOfANormalDistribution) {
  at::manual_seed(5);
  const LloydMax normal(at::randn({400000}), {});
  EXPECT_THAT(normal.levels(2), ::testing::Pointwise(::testing::DoubleNear(0.01), {-0.7979, 0.7979}));
  EXPECT_THAT(normal.levels(4), ::testing::Pointwise(::testing::DoubleNear(0.02), {-1.510, -0.4528, 0.4528, 1.510}));
}

TEST(LloydMax, EveryLevelIsTheWeightedMeanOfItsNearestValues) {
  at::manual_seed(6);
  const at::Tensor values = at::randn({500}), weights = at::rand({500});
  const std::vector<double> levels = LloydMax(values, weights).levels(5);
  std::vector<double> weight(5), moment(5);
  for (int64_t i = 0; i < 500; ++i) {
    const double v = values[i].item<double>(), w = weights[i].item<double>();
    size_t nearest = 0;
    for (size_t k = 1; k < 5; ++k) {
      if (std::abs(v - levels[k]) < std::abs(v - levels[nearest])) nearest = k;
    }
    weight[nearest] += w, moment[nearest] += w * v;
  }
  for (size_t k = 0; k < 5; ++k) EXPECT_NEAR(levels[k], moment[k] / weight[k], 1e-4) << k;
}

// The best two levels split the sorted values somewhere; a fixed point loses no less.
TEST(LloydMax, IsBoundedFromBelowByAllSplits) {
  at::manual_seed(7);
  double all_found = 0, all_best = 0;
  for (int trial = 0; trial < 50; ++trial) {
    const at::Tensor sorted = std::get<0>(at::randn({7}).sort());
    std::vector<double> values;
    for (int64_t i = 0; i < 7; ++i) values.push_back(sorted[i].item<double>());
    double best = std::numeric_limits<double>::infinity();
    for (int64_t split = 1; split < 7; ++split) {
      const double low = sorted.narrow(0, 0, split).mean().item<double>();
      const double high = sorted.narrow(0, split, 7 - split).mean().item<double>();
      best = std::min(best, squared_error(values, {low, high}));
    }
    const double found = squared_error(values, LloydMax(tensor_of(values), {}).levels(2));
    EXPECT_GE(found, best * (1 - 1e-5));
    all_found += found, all_best += best;
  }
  EXPECT_LT(all_found, 1.5 * all_best) << "far from the best";
}

TEST(LloydMax, AFixedLevelStays) {
  const std::vector<double> levels = LloydMax(at::linspace(-1, 1, 100), {}).improved({-1, 0.1, 0.2, 1}, 3);
  EXPECT_EQ(levels[3], 1.0);
  EXPECT_NE(levels[0], -1.0);
}

// ---- the grid ----

const std::vector<std::string> kBooks{"codebook: lloyd_max", "codebook: normal_float",
                                      "codebook: normal_float, offset: 0.2",
                                      "codebook: lloyd_max, range: mse, scale_bits: 5, scale_group: 2"};
const std::string kLevels = "codebook: levels, levels: [-1, -0.25, 0.125, 0.5]";

std::vector<Case> codebook_cases() {
  std::vector<Case> all = cases({2, 4}, {-1, 0, 4}, kBooks);
  for (const Case& c : cases({2}, {-1, 1, 4}, {kLevels, kLevels + ", offset: -0.3", kLevels + ", clip: 0.7"}))
    all.push_back(c);
  for (const Case& c : cases({1}, {4}, {"codebook: lloyd_max", "codebook: lloyd_max, range: mse"})) all.push_back(c);
  return all;
}

// Every weight takes a level of its group's table that no other level beats by more than float32's rounding.
TEST(CodebookGrid, EncodesToTheNearestLevelAndDecodesToIt) {
  for_all(codebook_cases(), [](const Case& c) {
    const auto format = format_of(c.config);
    const Encoded encoded = quantized(*format, c.w);
    const at::Tensor decoded = format->decode(encoded.codes, encoded.parameters);
    const ElementGrid grid = format->element_grid(encoded.parameters, kCaseRows, kCaseColumns);
    const at::Tensor& table = encoded.parameters.at("table");
    const auto levels = table.accessor<float, 1>();
    for (int64_t i = 0; i < kCaseRows; ++i) {
      for (int64_t j = 0; j < kCaseColumns; ++j) {
        const double scale = grid.scale[i][j / grid.group_size].item<double>(), w = c.w[i][j].item<double>();
        const int64_t code = encoded.codes[i][j].item<int64_t>();
        const double level = scale * (levels[code] + c.config.offset);
        ASSERT_NEAR(decoded[i][j].item<double>(), level, 1e-6 * scale * (1 + std::abs(c.config.offset)));
        for (int64_t k = 0; k < table.numel(); ++k) {
          const double other = scale * (levels[k] + c.config.offset);
          ASSERT_LE(std::abs(w - level), std::abs(w - other) + 1e-6 * (scale + std::abs(w))) << "code " << k;
        }
      }
    }
  });
}

TEST(CodebookGrid, TheScaleIsTheLargestWeightOverTheLargestLevel) {
  for_all(cases({2}, {-1, 4}, {kLevels, kLevels + ", clip: 0.5"}), [](const Case& c) {
    const at::Tensor scale = format_of(c.config)->fit(c.w, {}).at("scale").reshape(-1);
    const std::vector<SlowRange> ranges = slow_ranges(c.w, c.config.group_size);
    for (size_t g = 0; g < ranges.size(); ++g) {
      const double largest = ranges[g].largest() * c.config.clip;  // max |t| is 1
      const double exact = largest == 0 ? 0x1p-14 : std::max(0x1p-24, largest);
      ASSERT_NEAR(scale[g].item<double>(), exact, exact * 0x1p-10 + 0x1p-24);
    }
  });
}

TEST(CodebookGrid, TheElementGridIsTheSameGrid) {
  for_all(codebook_cases(), [](const Case& c) {
    const auto format = format_of(c.config);
    const Encoded encoded = quantized(*format, c.w);
    const ElementGrid grid = format->element_grid(encoded.parameters, kCaseRows, kCaseColumns);
    ASSERT_EQ(grid.table.size(), static_cast<size_t>(grid.top) + 1);
    ASSERT_TRUE(at::equal(grid.encode(c.w), encoded.codes));
    ASSERT_TRUE(at::equal(grid.decode(encoded.codes), format->decode(encoded.codes, encoded.parameters)));
  });
}

TEST(CodebookGrid, ParametersHaveTheLayoutThatTheCheckpointReads) {
  for_all(codebook_cases(), [](const Case& c) {
    const auto format = format_of(c.config);
    const Parameters fitted = format->fit(c.w, {}), layout = format->layout(kCaseRows, kCaseColumns);
    ASSERT_EQ(fitted.size(), layout.size());
    for (size_t p = 0; p < layout.size(); ++p) {
      ASSERT_EQ(fitted[p].tensor.sizes(), at::IntArrayRef(layout[p].shape)) << layout[p].name;
      if (core::is_codes(layout[p].kind)) continue;
      ASSERT_TRUE(at::equal(fitted[p].tensor.to(layout[p].stored_dtype).to(at::kFloat), fitted[p].tensor));
    }
  });
}

TEST(CodebookGrid, PermutingRowsAndScalingByAPowerOfTwoCommuteWithQuantizing) {
  const at::Tensor order = at::tensor({2, 0, 1}, at::kLong);
  for_all(cases({2, 3}, {-1, 4}, {"codebook: normal_float, scale_dtype: float32"}), [&](const Case& c) {
    const auto format = format_of(c.config);
    const at::Tensor plain = approximation(*format, c.w);
    ASSERT_TRUE(at::equal(approximation(*format, c.w.index_select(0, order)), plain.index_select(0, order)));
    if (c.name != "zeros") {
      ASSERT_TRUE(at::equal(approximation(*format, c.w * 8), plain * 8));
    }
  });
}

double relative_error(const std::string& variables, const at::Tensor& w) {
  const auto format = make_format(weight_config("{group_size: 64, " + variables + "}"), "test", w.size(1));
  return at::mean(at::square(w - approximation(*format, w))).item<double>() / at::mean(at::square(w)).item<double>();
}

TEST(CodebookGrid, LloydMaxLosesLessThanAnyFixedGridOfItsBits) {
  at::manual_seed(8);
  const at::Tensor normal = at::randn({256, 256}), laplace = normal * at::randn({256, 256}).abs();
  for (const at::Tensor& w : {normal, laplace}) {
    const double fitted = relative_error("bits: 2, range: mse, codebook: lloyd_max", w);
    EXPECT_LT(fitted, relative_error("bits: 2, range: mse, symmetry: midrise", w));
    EXPECT_LT(fitted, relative_error("bits: 2, range: mse, codebook: normal_float", w));
    EXPECT_LT(relative_error("bits: 2, codebook: lloyd_max", w), relative_error("bits: 2, symmetry: midrise", w));
  }
}

TEST(CodebookGrid, StoresAScalePerGroupAndOneTable) {
  const auto format = make_format(weight_config("{bits: 2, group_size: 64, codebook: lloyd_max}"), "test", 128);
  EXPECT_EQ(parameter_bits(format->layout(10, 128)), 10 * 2 * 16 + 4 * 16);
}

}  // namespace
}  // namespace quant
