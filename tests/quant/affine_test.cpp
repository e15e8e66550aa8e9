// The affine grid against plain loops in double, on named data, for every symmetry, bit width and several group sizes;
// then its properties.
#include "quant/grids/affine.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

// Errors of float32 against exact arithmetic. Relative, of a quotient of sums: three roundings of 2^-24.
constexpr double kQuotient = 0x1p-22;
// In steps, of w/s + z: at most 2^9, rounded to 2^-24 of it, twice.
constexpr double kPosition = 0x1p-14;

const std::vector<int64_t> kAllBits{1, 2, 3, 4, 5, 6, 7, 8}, kTwoBitsAndMore{2, 3, 4, 5, 6, 7, 8};
const std::vector<int64_t> kGroupSizes{-1, 0, 1, 3, 4, 12};
const std::vector<std::string> kFromOneBit{"symmetry: asymmetric", "zero_point: float",     "symmetry: span",
                                           "zero_point: min",      "symmetry: signed_full", "symmetry: midrise"};
const std::vector<std::string> kFromTwoBits{"symmetry: narrow", "symmetry: noclip"};

std::vector<std::string> with(std::vector<std::string> variables, const std::string& more) {
  for (std::string& v : variables) v += ", " + more;
  return variables;
}

std::vector<Case> affine_cases(const std::string& more) {
  std::vector<Case> all = cases(kAllBits, kGroupSizes, with(kFromOneBit, more));
  const std::vector<Case> rest = cases(kTwoBitsAndMore, kGroupSizes, with(kFromTwoBits, more));
  all.insert(all.end(), rest.begin(), rest.end());
  return all;
}

// ---- the definition, one group at a time ----

double half_of(int64_t bits) { return std::pow(2.0, static_cast<double>(bits) - 1); }

double slow_scale(const SlowRange& range, const WeightConfig& config) {
  const double top = top_of(config.bits), half = half_of(config.bits);
  if (config.symmetry == "asymmetric") return (range.hi - range.lo) / top;
  if (config.symmetry == "narrow") return range.largest() / (half - 1);
  if (config.symmetry == "signed_full") return -range.largest_signed() / half;
  if (config.symmetry == "noclip") return std::max(range.hi / (half - 1), -range.lo / half);
  return 2 * range.largest() / top;
}

// Relative rounding, smallest normal number, and what is used below it, of the dtype of scales.
double rounding(const WeightConfig& config) {
  if (config.scale_dtype == "float16") return 0x1p-11;
  return config.scale_dtype == "bfloat16" ? 0x1p-8 : 0x1p-24;
}
double smallest_normal(const WeightConfig& config) { return config.scale_dtype == "float16" ? 0x1p-14 : 0x1p-126; }
double subnormal_step(const WeightConfig& config) { return config.scale_dtype == "float16" ? 0x1p-24 : 0; }

// Equal to the rounding of `exact`, where a value that float32 cannot tell from a tie may go either way.
::testing::AssertionResult is_rounding_of(double found, double exact, double top) {
  const double below = std::floor(exact), fraction = exact - below;
  const auto clamped = [&](double x) { return std::clamp(x, 0.0, top); };
  const bool tie = std::abs(fraction - 0.5) <= kPosition && fraction != 0.5;
  if (found == clamped(std::nearbyint(exact)) || (tie && (found == clamped(below) || found == clamped(below + 1)))) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << found << " is not the rounding of " << exact << " in [0, " << top << "]";
}

void expect_scale_as_defined(double found, const SlowRange& range, const WeightConfig& config) {
  const double exact = slow_scale(range, config) * config.clip;
  const double step = subnormal_step(config), smallest = step > 0 ? step : smallest_normal(config);
  if (exact == 0) {
    ASSERT_EQ(std::abs(found), smallest_normal(config));
  } else if (std::abs(exact) < smallest) {
    ASSERT_EQ(std::abs(found), smallest);
  } else {
    ASSERT_NEAR(found, exact, std::abs(exact) * (rounding(config) + kQuotient) + step);
  }
}

void expect_zero_as_defined(double found, const SlowRange& range, double scale, const WeightConfig& config) {
  const double exact = -range.lo * config.clip / scale;
  if (config.zero_point == "int") {
    ASSERT_TRUE(is_rounding_of(found, exact, top_of(config.bits)));
  } else {
    ASSERT_NEAR(found, exact, exact * (rounding(config) + kQuotient) + smallest_normal(config) * rounding(config));
  }
}

double constant_zero(const WeightConfig& config) {
  return config.symmetry == "midrise" ? top_of(config.bits) / 2 : half_of(config.bits);
}

// zero_point: min. Levels s (k + o) + m.
void expect_minimum_as_slow(const Case& c, const Encoded& encoded, const at::Tensor& decoded) {
  const at::Tensor scales = encoded.parameters.at("scale").reshape(-1),
                   minima = encoded.parameters.at("minimum").reshape(-1);
  const std::vector<SlowRange> ranges = slow_ranges(c.w, c.config.group_size);
  const double step = subnormal_step(c.config) + smallest_normal(c.config) * rounding(c.config);
  for (int64_t i = 0; i < kCaseRows; ++i) {
    for (int64_t j = 0; j < kCaseColumns; ++j) {
      const int64_t g = group_of(i, j, c.config.group_size);
      const double scale = scales[g].item<double>(), minimum = minima[g].item<double>();
      ASSERT_NO_FATAL_FAILURE(expect_scale_as_defined(scale, ranges[g], c.config)) << "group " << g;
      const double lowest = ranges[g].lo * c.config.clip;
      ASSERT_NEAR(minimum, lowest, std::abs(lowest) * (rounding(c.config) + kQuotient) + step) << "group " << g;
      const double code = encoded.codes[i][j].item<double>(), offset = c.config.offset;
      const double position = (c.w[i][j].item<double>() - minimum) / scale - offset;
      const double error = std::abs(minimum / scale) * kQuotient;  // of float32 in m / s
      ASSERT_TRUE(is_rounding_of(code, position, top_of(c.config.bits)) || std::abs(code - position) < 0.5 + error)
          << i << ", " << j << ": " << position;
      ASSERT_NEAR(decoded[i][j].item<double>(), scale * (code + offset) + minimum,
                  (std::abs(scale) * (code + std::abs(offset)) + std::abs(minimum)) * kQuotient);
    }
  }
}

void expect_grid_as_slow(const Case& c) {
  const auto format = format_of(c.config);
  const Encoded encoded = quantized(*format, c.w);
  const at::Tensor decoded = format->decode(encoded.codes, encoded.parameters);
  const bool stores_minimum = c.config.zero_point == "min", stores_zero = c.config.symmetry == "asymmetric";
  const at::Tensor scales = encoded.parameters.at("scale").reshape(-1);
  if (stores_minimum) return expect_minimum_as_slow(c, encoded, decoded);
  const at::Tensor zeros = stores_zero ? encoded.parameters.at("zero_point").reshape(-1) : at::Tensor();
  const std::vector<SlowRange> ranges = slow_ranges(c.w, c.config.group_size);
  ASSERT_EQ(scales.numel(), static_cast<int64_t>(ranges.size()));
  const double top = top_of(c.config.bits), offset = c.config.offset;
  for (int64_t i = 0; i < kCaseRows; ++i) {
    for (int64_t j = 0; j < kCaseColumns; ++j) {
      const int64_t g = group_of(i, j, c.config.group_size);
      const double scale = scales[g].item<double>(),
                   zero = stores_zero ? zeros[g].item<double>() : constant_zero(c.config);
      ASSERT_NO_FATAL_FAILURE(expect_scale_as_defined(scale, ranges[g], c.config)) << "group " << g;
      if (stores_zero) {
        ASSERT_NO_FATAL_FAILURE(expect_zero_as_defined(zero, ranges[g], scale, c.config)) << "group " << g;
      }
      const double code = encoded.codes[i][j].item<double>(), level = code - zero + offset;
      ASSERT_TRUE(is_rounding_of(code, c.w[i][j].item<double>() / scale + zero - offset, top)) << i << ", " << j;
      const double sizes = std::abs(code) + std::abs(zero) + std::abs(offset);
      ASSERT_NEAR(decoded[i][j].item<double>(), level * scale, sizes * std::abs(scale) * kQuotient) << i << ", " << j;
    }
  }
}

TEST(AffineGrid, IsWhatPlainLoopsInDoubleGive) { for_all(affine_cases("scale_dtype: float16"), expect_grid_as_slow); }

TEST(AffineGrid, IsWhatPlainLoopsInDoubleGiveForOtherDtypesClipsAndOffsets) {
  for (const std::string more : {"scale_dtype: bfloat16", "scale_dtype: float32", "clip: 0.6", "offset: 0.37",
                                 "offset: -1.5, clip: 0.9, scale_dtype: float32"}) {
    for_all(cases({2, 5}, {-1, 4}, with(kFromOneBit, more)), expect_grid_as_slow);
    for_all(cases({2, 5}, {-1, 4}, with(kFromTwoBits, more)), expect_grid_as_slow);
  }
}

// ---- the levels ----

// Levels of a group with these weights, in order of codes.
std::vector<float> levels(const std::string& variables, const std::vector<double>& weights) {
  const WeightConfig config = weight_config("{group_size: -1, scale_dtype: float32, " + variables + "}");
  const auto format = make_format(config, "test", static_cast<int64_t>(weights.size()));
  const at::Tensor w = at::tensor(weights, at::kFloat).reshape({1, -1});
  const int64_t codes = int64_t{1} << config.bits;
  const at::Tensor decoded =
      format->decode(at::arange(codes, at::kByte).reshape({1, -1}), format->fit(w, {})).reshape(-1);
  return {decoded.const_data_ptr<float>(), decoded.const_data_ptr<float>() + codes};
}

TEST(Levels, AtTwoBitsAreThoseOfTheTable) {  // of a range [-3, 6]
  using ::testing::ElementsAre;
  const std::vector<double> w{-3, 0, 1, 6};
  EXPECT_THAT(levels("bits: 2", w), ElementsAre(-3, 0, 3, 6));
  EXPECT_THAT(levels("bits: 2, symmetry: narrow", w), ElementsAre(-12, -6, 0, 6));
  EXPECT_THAT(levels("bits: 2, symmetry: span", w), ElementsAre(-8, -4, 0, 4));
  EXPECT_THAT(levels("bits: 2, symmetry: signed_full", w), ElementsAre(6, 3, 0, -3));
  EXPECT_THAT(levels("bits: 2, symmetry: noclip", w), ElementsAre(-12, -6, 0, 6));
  EXPECT_THAT(levels("bits: 2, symmetry: noclip", {-6, 1}), ElementsAre(-6, -3, 0, 3));
  EXPECT_THAT(levels("bits: 2, symmetry: midrise", w), ElementsAre(-6, -2, 2, 6));
  EXPECT_THAT(levels("bits: 2, offset: 0.5", w), ElementsAre(-1.5, 1.5, 4.5, 7.5));
}

TEST(Levels, AtOneBitAreThoseOfTheTable) {  // of a range [-2, 6]
  using ::testing::ElementsAre;
  const std::vector<double> w{-2, 0, 6};
  EXPECT_THAT(levels("bits: 1", w), ElementsAre(0, 8));  // z = 0.25 is rounded
  EXPECT_THAT(levels("bits: 1, zero_point: float", w), ElementsAre(-2, 6));
  EXPECT_THAT(levels("bits: 1, symmetry: span", w), ElementsAre(-12, 0));
  EXPECT_THAT(levels("bits: 1, symmetry: signed_full", w), ElementsAre(6, 0));
  EXPECT_THAT(levels("bits: 1, symmetry: midrise", w), ElementsAre(-6, 6));
}

// ---- properties under minmax with float32 scales ----

std::vector<Case> exact_scales() { return affine_cases("scale_dtype: float32"); }

at::Tensor step_of(const ElementGrid& grid) {  // [O, I]
  return grid.scale.abs().repeat_interleave(grid.group_size, 1);
}

TEST(AffineGrid, ErrorIsAtMostHalfAStepAndOneStepForSignedFull) {
  for_all(exact_scales(), [](const Case& c) {
    const auto format = format_of(c.config);
    const Encoded encoded = quantized(*format, c.w);
    const at::Tensor step = step_of(format->element_grid(encoded.parameters, kCaseRows, kCaseColumns));
    const at::Tensor steps = at::abs(c.w - format->decode(encoded.codes, encoded.parameters)) / step;
    ASSERT_LE(steps.max().item<double>(), (c.config.symmetry == "signed_full" ? 1.0 : 0.5) + kPosition);
  });
}

TEST(AffineGrid, QuantizingADequantizedTensorGivesTheSameCodes) {
  for_all(exact_scales(), [](const Case& c) {
    if (c.config.symmetry == "span") return;
    const auto format = format_of(c.config);
    const Encoded encoded = quantized(*format, c.w);
    ASSERT_TRUE(at::equal(quantized(*format, format->decode(encoded.codes, encoded.parameters)).codes, encoded.codes));
  });
}

TEST(AffineGrid, ScalingByAPowerOfTwoChangesOnlyTheScale) {
  for_all(exact_scales(), [](const Case& c) {
    if (c.name == "zeros") return;  // its scale is the smallest number
    const auto format = format_of(c.config);
    const Encoded plain = quantized(*format, c.w);
    for (const double factor : {0.5, 2.0, 1024.0}) {
      const Encoded scaled = quantized(*format, c.w * factor);
      ASSERT_TRUE(at::equal(scaled.codes, plain.codes)) << factor;
      for (const Parameter& p : plain.parameters) {
        // A group of zeros has the smallest scale before and after.
        const at::Tensor grown = at::where(p.tensor.abs() > 0x1p-126, p.tensor * factor, p.tensor);
        ASSERT_TRUE(
            at::equal(scaled.parameters.at(p.name), p.name == "scale" || p.name == "minimum" ? grown : p.tensor))
            << p.name;
      }
    }
  });
}

TEST(AffineGrid, PermutingRowsCommutesWithQuantizing) {
  const at::Tensor order = at::tensor({2, 0, 1}, at::kLong);
  for_all(exact_scales(), [&](const Case& c) {
    const auto format = format_of(c.config);
    ASSERT_TRUE(at::equal(approximation(*format, c.w.index_select(0, order)),
                          approximation(*format, c.w).index_select(0, order)));
  });
}

TEST(AffineGrid, EqualWeightsAreExactUpToTheRoundingOfTheScaleExceptUnderSpan) {
  for_all(affine_cases("scale_dtype: float16"), [](const Case& c) {
    const bool equal_in_groups = c.name.starts_with("flat") || (c.config.group_size == 1 && c.name != "tiny");
    if (!equal_in_groups || (c.name == "zeros" && c.config.symmetry == "midrise")) return;
    if (c.config.symmetry == "span") return;
    const at::Tensor error = at::abs(approximation(*format_of(c.config), c.w) - c.w);
    // The scale is rounded once, a float zero point too; the smallest scale may be larger than a weight.
    ASSERT_TRUE((error <= c.w.abs() * 0x1p-10 + 0x1p-15).all().item<bool>()) << error.max();
  });
}

TEST(AffineGrid, ZerosStayZerosExceptUnderMidrise) {
  const at::Tensor w = at::zeros({kCaseRows, kCaseColumns});
  for_all(exact_scales(), [&](const Case& c) {
    if (c.name != "zeros") return;
    const at::Tensor found = approximation(*format_of(c.config), w);
    ASSERT_EQ(found.count_nonzero().item<int64_t>(), c.config.symmetry == "midrise" ? w.numel() : 0);
    ASSERT_LE(found.abs().max().item<double>(), 0x1p-127);
  });
}

// ---- what other parts rely on ----

TEST(AffineGrid, ParametersHaveTheLayoutThatTheCheckpointReads) {
  for (const std::string more : {"offset: 0", "scale_bits: 4, scale_group: 2", "scale_dtype: bfloat16, offset: 0.25"}) {
    for_all(affine_cases(more), [](const Case& c) {
      const auto format = format_of(c.config);
      const Parameters fitted = format->fit(c.w, {}), layout = format->layout(kCaseRows, kCaseColumns);
      ASSERT_EQ(fitted.size(), layout.size());
      for (size_t p = 0; p < layout.size(); ++p) {
        ASSERT_EQ(fitted[p].tensor.sizes(), at::IntArrayRef(layout[p].shape)) << layout[p].name;
        if (core::is_codes(layout[p].kind)) {
          ASSERT_LT(fitted[p].tensor.max().item<int64_t>(), int64_t{1} << layout[p].stored_bits) << layout[p].name;
        } else {
          ASSERT_TRUE(at::equal(fitted[p].tensor.to(layout[p].stored_dtype).to(at::kFloat), fitted[p].tensor));
        }
      }
    });
  }
}

TEST(AffineGrid, TheElementGridIsTheSameGrid) {
  for (const std::string more : {"offset: 0", "scale_bits: 5, scale_group: 2, offset: 0.3"}) {
    for_all(affine_cases(more), [](const Case& c) {
      const auto format = format_of(c.config);
      const Encoded encoded = quantized(*format, c.w);
      const ElementGrid grid = format->element_grid(encoded.parameters, kCaseRows, kCaseColumns);
      ASSERT_EQ(grid.scale.sizes(), at::IntArrayRef({kCaseRows, kCaseColumns / grid.group_size}));
      ASSERT_EQ(grid.shift.sizes(), grid.scale.sizes());
      ASSERT_TRUE(grid.scale.is_contiguous() && grid.shift.is_contiguous());
      ASSERT_EQ(grid.top, top_of(c.config.bits));
      ASSERT_TRUE(at::equal(grid.encode(c.w), encoded.codes));
      const at::Tensor decoded = format->decode(encoded.codes, encoded.parameters);
      if (c.config.zero_point == "min") {  // s (k − shift) there, s k + m here
        ASSERT_TRUE(at::allclose(grid.decode(encoded.codes), decoded, 1e-5, 1e-6 * c.w.abs().max().item<double>()));
      } else {
        ASSERT_TRUE(at::equal(grid.decode(encoded.codes), decoded));
      }
      ASSERT_TRUE(at::equal(grid.encode(grid.decode(encoded.codes)), encoded.codes)) << "a level is its own code";
    });
  }
}

}  // namespace
}  // namespace quant
