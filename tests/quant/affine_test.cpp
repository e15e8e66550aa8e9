// The affine grid against plain loops in double, on named data, for every bit width and several group sizes; then its
// properties.
#include "quant/affine.h"

#include <ATen/ATen.h>
#include <c10/util/Half.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

namespace quant {
namespace {

constexpr int64_t kRows = 3, kColumns = 12;
constexpr double kSmallestScale = 0x1p-14;  // the smallest normal float16
// float32 against exact arithmetic, in steps: w/s is rounded to 2^-24 of at most 2^8, adding z to 2^-24 of at most 2^9.
constexpr double kFloatError = 0x1p-14;
constexpr double kHalfRounding = 0x1p-11;  // relative rounding of a float16

struct Case {
  std::string name;
  at::Tensor w;  // [O, I] float32
  int64_t bits, group_size;
};

void PrintTo(const Case& c, std::ostream* out) {
  *out << c.name << ", " << c.bits << " bits, group_size " << c.group_size;
}

std::vector<std::pair<std::string, at::Tensor>> named_data() {
  at::manual_seed(11);
  const at::Tensor ramp = at::linspace(-1, 2, kRows * kColumns).reshape({kRows, kColumns});
  const at::Tensor normal = at::randn({kRows, kColumns});
  at::Tensor outlier = normal * 0.01;
  outlier[1][5] = -40;
  return {{"flat", at::full({kRows, kColumns}, 0.7)},
          {"flat negative", at::full({kRows, kColumns}, -0.7)},
          {"ramp", ramp},
          {"plateaus", at::floor(ramp * 2) / 2},
          {"normal", normal},
          {"normal above zero", normal.abs() + 0.1},
          {"one outlier", outlier},
          {"zeros", at::zeros({kRows, kColumns})},
          {"tiny", normal * 1e-6}};
}

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const auto& [name, w] : named_data()) {
    for (int64_t bits = 1; bits <= 8; ++bits) {
      for (const int64_t group_size : {-1, 0, 1, 3, 4, 12}) cases.push_back({name, w, bits, group_size});
    }
  }
  return cases;
}

AffineGrid grid_of(int64_t bits, int64_t group_size) {
  WeightConfig config;
  config.bits = bits;
  config.group_size = group_size;
  return AffineGrid(config);
}
AffineGrid grid_of(const Case& c) { return grid_of(c.bits, c.group_size); }

Encoded quantized(const AffineGrid& grid, const at::Tensor& w) { return grid.encode(w, grid.fit(w, {})); }

double top_of(int64_t bits) { return std::pow(2.0, static_cast<double>(bits)) - 1; }

// The group of weight (row, column), counted as the parameters are stored, row-major.
int64_t group_of(int64_t row, int64_t column, int64_t group_size) {
  if (group_size == 0) return 0;
  if (group_size == -1) return row;
  return row * (kColumns / group_size) + column / group_size;
}

struct SlowGroup {
  double lo = 0, hi = 0, scale = 0, exact_zero = 0;  // exact_zero: before rounding

  double zero(double top) const { return std::min(top, std::nearbyint(exact_zero)); }
};

// The definition, one weight at a time. std::nearbyint rounds ties to even.
std::vector<SlowGroup> slow_fit(const Case& c) {
  std::vector<SlowGroup> groups(group_of(kRows - 1, kColumns - 1, c.group_size) + 1);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      SlowGroup& group = groups[group_of(i, j, c.group_size)];
      const double w = c.w[i][j].item<double>();
      group.lo = std::min(group.lo, w);
      group.hi = std::max(group.hi, w);
    }
  }
  for (SlowGroup& group : groups) {
    const auto rounded = static_cast<c10::Half>(static_cast<float>((group.hi - group.lo) / top_of(c.bits)));
    group.scale = std::max<double>(kSmallestScale, static_cast<float>(rounded));
    group.exact_zero = -group.lo / group.scale;
  }
  return groups;
}

// Equal to the rounding of `exact`, where a value that float32 cannot tell from a tie may go either way.
::testing::AssertionResult is_rounding_of(double found, double exact, double top) {
  const double below = std::floor(exact), fraction = exact - below;
  const auto clamped = [&](double x) { return std::clamp(x, 0.0, top); };
  const bool tie = std::abs(fraction - 0.5) <= kFloatError && fraction != 0.5;
  if (found == clamped(std::nearbyint(exact)) || (tie && (found == clamped(below) || found == clamped(below + 1)))) {
    return ::testing::AssertionSuccess();
  }
  return ::testing::AssertionFailure() << found << " is not the rounding of " << exact << " in [0, " << top << "]";
}

void expect_as_slow(const Case& c) {
  const AffineGrid grid = grid_of(c);
  const Encoded encoded = quantized(grid, c.w);
  const at::Tensor decoded = grid.decode(encoded.codes, encoded.parameters);
  const at::Tensor scales = encoded.parameters.at("scale").reshape(-1),
                   zeros = encoded.parameters.at("zero_point").reshape(-1);
  const std::vector<SlowGroup> groups = slow_fit(c);
  ASSERT_EQ(scales.numel(), static_cast<int64_t>(groups.size()));
  const double top = top_of(c.bits);
  for (size_t g = 0; g < groups.size(); ++g) {
    ASSERT_EQ(scales[g].item<double>(), groups[g].scale) << "group " << g;
    ASSERT_TRUE(is_rounding_of(zeros[g].item<double>(), groups[g].exact_zero, top)) << "group " << g;
  }
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      const int64_t g = group_of(i, j, c.group_size);
      const double scale = groups[g].scale, zero = zeros[g].item<double>(), code = encoded.codes[i][j].item<double>();
      ASSERT_TRUE(is_rounding_of(code, c.w[i][j].item<double>() / scale + zero, top)) << "at " << i << ", " << j;
      ASSERT_EQ(decoded[i][j].item<double>(), (code - zero) * scale)
          << "at " << i << ", " << j;  // 19 bits: exact in float32
    }
  }
}

// The scale s is the range over `top` steps, rounded by at most 2^-11: so the range is at most top · (1 + 2^-11/(1 −
// 2^-11)) steps long. Its lower end is within half a step of level 0 or its upper end of level `top`; the rest of the
// excess is added at the other end.
void expect_error_below_half_a_step(const Case& c) {
  const AffineGrid grid = grid_of(c);
  const Encoded encoded = quantized(grid, c.w);
  const at::Tensor decoded = grid.decode(encoded.codes, encoded.parameters);
  const at::Tensor scales = encoded.parameters.at("scale").reshape(-1),
                   zeros = encoded.parameters.at("zero_point").reshape(-1);
  const double top = top_of(c.bits), excess = top * kHalfRounding / (1 - kHalfRounding);
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t j = 0; j < kColumns; ++j) {
      const int64_t g = group_of(i, j, c.group_size);
      const double scale = scales[g].item<double>(), zero = zeros[g].item<double>(), w = c.w[i][j].item<double>();
      const double steps = std::abs(w - decoded[i][j].item<double>()) / scale;
      const bool inside = w >= -zero * scale && w <= (top - zero) * scale;  // between the outermost levels
      ASSERT_LE(steps, 0.5 + kFloatError + (inside ? 0.0 : excess)) << "at " << i << ", " << j << ": w = " << w;
    }
  }
}

void for_all_cases(const std::function<void(const Case&)>& expect) {
  for (const Case& c : all_cases()) {
    SCOPED_TRACE(::testing::PrintToString(c));
    expect(c);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

TEST(AffineGrid, FitsEncodesAndDecodesAsPlainLoopsInDoubleDo) { for_all_cases(expect_as_slow); }

TEST(AffineGrid, ErrorIsAtMostHalfAStepPlusTheRoundingOfTheScale) { for_all_cases(expect_error_below_half_a_step); }

TEST(AffineGrid, ParametersHaveTheLayoutThatTheCheckpointReads) {
  for_all_cases([](const Case& c) {
    const AffineGrid grid = grid_of(c);
    const Parameters fitted = grid.fit(c.w, {}), layout = grid.layout(kRows, kColumns);
    ASSERT_EQ(fitted.size(), layout.size());
    for (size_t p = 0; p < layout.size(); ++p) {
      ASSERT_EQ(fitted[p].tensor.sizes(), at::IntArrayRef(layout[p].shape)) << layout[p].name;
      ASSERT_EQ(fitted[p].stored_bits, layout[p].stored_bits);
    }
    const at::Tensor& scale = fitted.at("scale");
    ASSERT_TRUE(at::equal(scale.to(at::kHalf).to(at::kFloat), scale)) << "a float16 holds every scale";
  });
}

TEST(AffineGrid, EqualWeightsAreExactUpToTheRoundingOfTheScale) {
  for_all_cases([](const Case& c) {
    const bool equal_in_groups = c.name.starts_with("flat") || (c.group_size == 1 && c.name != "tiny");
    if (!equal_in_groups) return;
    const AffineGrid grid = grid_of(c);
    const Encoded encoded = quantized(grid, c.w);
    const at::Tensor error = at::abs(grid.decode(encoded.codes, encoded.parameters).sub(c.w));
    // Below the smallest scale the bound is half of that scale instead.
    const at::Tensor bound = at::maximum(c.w.abs() * kHalfRounding, at::full({}, kSmallestScale / 2));
    ASSERT_TRUE((error <= bound).all().item<bool>()) << (error - bound).max();
  });
}

TEST(AffineGrid, ZerosStayZeros) {
  for (int64_t bits = 1; bits <= 8; ++bits) {
    const AffineGrid grid = grid_of(bits, 4);
    const Encoded encoded = quantized(grid, at::zeros({kRows, kColumns}));
    EXPECT_TRUE(at::equal(grid.decode(encoded.codes, encoded.parameters), at::zeros({kRows, kColumns})));
  }
}

TEST(AffineGrid, ZeroIsALevelOfEveryGroup) {
  for_all_cases([](const Case& c) {
    const AffineGrid grid = grid_of(c);
    const Encoded encoded = grid.encode(at::zeros_like(c.w), grid.fit(c.w, {}));
    ASSERT_TRUE(at::equal(grid.decode(encoded.codes, encoded.parameters), at::zeros_like(c.w)));
  });
}

TEST(AffineGrid, LevelsEncodeToTheirOwnCodes) {
  for_all_cases([](const Case& c) {
    const AffineGrid grid = grid_of(c);
    const Encoded encoded = quantized(grid, c.w);
    const at::Tensor levels = grid.decode(encoded.codes, encoded.parameters);
    ASSERT_TRUE(at::equal(grid.encode(levels, encoded.parameters).codes, encoded.codes));
  });
}

// Refitting finds the same grid when the outermost codes occur in every group: then the levels span the range exactly.
TEST(AffineGrid, QuantizingADequantizedTensorGivesTheSameCodes) {
  int64_t tried = 0;
  for_all_cases([&](const Case& c) {
    const AffineGrid grid = grid_of(c);
    const Encoded encoded = quantized(grid, c.w);
    const at::Tensor groups = encoded.codes.reshape({encoded.parameters.at("scale").numel(), -1});
    if (!(groups.amin(1) == 0).all().item<bool>() || !(groups.amax(1) == top_of(c.bits)).all().item<bool>()) return;
    const Encoded again = quantized(grid, grid.decode(encoded.codes, encoded.parameters));
    ASSERT_TRUE(at::equal(again.codes, encoded.codes));
    for (const char* name : {"scale", "zero_point"})
      ASSERT_TRUE(at::equal(again.parameters.at(name), encoded.parameters.at(name)));
    ++tried;
  });
  EXPECT_GE(tried, 50);
}

TEST(AffineGrid, ScalingByAPowerOfTwoChangesOnlyTheScale) {
  at::manual_seed(12);
  const at::Tensor w = at::randn({kRows, kColumns});
  for (int64_t bits = 1; bits <= 8; ++bits) {
    for (const int64_t group_size : {-1, 0, 4}) {
      const Encoded plain = quantized(grid_of(bits, group_size), w);
      for (const double factor : {0.5, 2.0, 1024.0}) {
        const Encoded scaled = quantized(grid_of(bits, group_size), w * factor);
        EXPECT_TRUE(at::equal(scaled.codes, plain.codes)) << bits << " bits, times " << factor;
        EXPECT_TRUE(at::equal(scaled.parameters.at("zero_point"), plain.parameters.at("zero_point")));
        EXPECT_TRUE(at::equal(scaled.parameters.at("scale"), plain.parameters.at("scale") * factor));
      }
    }
  }
}

TEST(AffineGrid, PermutingRowsCommutesWithQuantizing) {
  const at::Tensor order = at::tensor({2, 0, 1}, at::kLong);
  for_all_cases([&](const Case& c) {
    const AffineGrid grid = grid_of(c);
    const Encoded plain = quantized(grid, c.w), permuted = quantized(grid, c.w.index_select(0, order));
    ASSERT_TRUE(at::equal(permuted.codes, plain.codes.index_select(0, order)));
    const at::Tensor scale = plain.parameters.at("scale");
    ASSERT_TRUE(at::equal(permuted.parameters.at("scale"), c.group_size == 0 ? scale : scale.index_select(0, order)));
  });
}

}  // namespace
}  // namespace quant
