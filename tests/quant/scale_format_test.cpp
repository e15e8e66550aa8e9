// How scales are stored: the rounding to a dtype, and scales of two levels, against plain loops.
#include "quant/grids/scale_format.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

constexpr int64_t kGroups = 7;

ScaleFormat scale_format_of(const std::string& yaml, bool is_signed = false) {
  return ScaleFormat(weight_config("{" + yaml + "}"), is_signed);
}

at::Tensor round_trip(const ScaleFormat& format, const at::Tensor& scale) { return format.scale(format.stored(scale)); }

TEST(ScaleFormat, KeepsTheSignAndAtLeastTheSmallestNumber) {
  const at::Tensor scale = at::tensor({0.0, 1e-9, -1e-9, 0.1, -0.1, 1.0}, at::kFloat);
  const at::Tensor half = scale_format_of("scale_dtype: float16").rounded_scale(scale);
  EXPECT_TRUE(at::equal(half.narrow(0, 0, 3), at::tensor({0x1p-14, 0x1p-24, -0x1p-24}, at::kFloat))) << half;
  EXPECT_TRUE(at::equal(half.narrow(0, 3, 3), scale.narrow(0, 3, 3).to(at::kHalf).to(at::kFloat)));
  const at::Tensor exact = scale_format_of("scale_dtype: float32").rounded_scale(scale);
  EXPECT_TRUE(at::equal(exact.narrow(0, 1, 5), scale.narrow(0, 1, 5)));
  EXPECT_EQ(exact[0].item<double>(), 0x1p-126);
  EXPECT_TRUE(at::equal(scale_format_of("scale_dtype: bfloat16").rounded_scale(scale.narrow(0, 3, 1)),
                        scale.narrow(0, 3, 1).to(at::kBFloat16).to(at::kFloat)));
}

// Below 2⁻¹⁴ float16 has steps of 2⁻²⁴: the nearest of them, half to even, and the next larger one below 64 of them.
TEST(ScaleFormat, SubnormalHalvesAreRoundedLikeTheOthersAndTheSmallestUpwards) {
  const ScaleFormat format = scale_format_of("scale_dtype: float16");
  const at::Tensor steps = at::arange(1, 1025, at::kFloat);
  for (const double fraction : {0.0, 0.25, 0.5, 0.75}) {
    const at::Tensor scale = (steps + fraction) * 0x1p-24;
    const at::Tensor exact =
        at::where(steps < 64, at::ceil(steps + fraction), at::round(steps + fraction)).to(at::kFloat) * 0x1p-24;
    EXPECT_TRUE(at::equal(format.rounded_scale(scale), exact)) << fraction;
    EXPECT_TRUE(at::equal(format.rounded_scale(-scale), -exact)) << fraction;
  }
  EXPECT_NEAR(format.rounded_scale(at::full({1}, 6.5e-6)).item<double>(), 6.5e-6, 0.005 * 6.5e-6);
}

TEST(ScaleFormat, CountsTheScalesThatHalvesHoldBadly) {
  const at::Tensor scale = at::tensor({0.0, 1e-9, -1e-9, 3e-6, 0x1p-18, 6.5e-6, 1.0}, at::kFloat).reshape({1, 7});
  const auto count = [&](const std::string& yaml) { return imprecise_scales(scale_format_of(yaml).stored(scale)); };
  EXPECT_EQ(count("scale_dtype: float16"), 3);
  EXPECT_EQ(count("scale_dtype: bfloat16"), 0);
  EXPECT_EQ(count("scale_bits: 4, scale_group: 1"), 5) << "a shared scale is a sixteenth of its group's";
}

TEST(ScaleFormat, RefusesAScaleThatIsNotFinite) {
  EXPECT_EQ(core::message_of([] { scale_format_of("scale_dtype: float16").rounded_scale(at::full({1}, 1e5)); }),
            "a scale of 1e+05 does not fit float16. Use scale_dtype: bfloat16 or float32.");
  EXPECT_EQ(core::message_of([] { scale_format_of("scale_dtype: bfloat16").rounded_scale(at::full({1}, 1e5)); }),
            "no error");
}

// The nearest multiple of the super-scale, from 1 up to as many as the bits count.
void expect_two_levels(int64_t bits, int64_t share, bool is_signed, const at::Tensor& scale, bool from_zero = false) {
  SCOPED_TRACE(fmt::format("{} bits, {} groups share, signed {}, zero {}", bits, share, is_signed, from_zero));
  const ScaleFormat format = scale_format_of(
      fmt::format("scale_bits: {}, scale_group: {}, scale_zero: {}", bits, share, from_zero), is_signed);
  const Parameters stored = format.stored(scale);
  const at::Tensor found = format.scale(stored), super = stored.at("super_scale");
  const int64_t width = share == -1 ? kGroups : share,
                count = (int64_t{1} << (is_signed ? bits - 1 : bits)) - (from_zero ? 1 : 0);
  ASSERT_EQ(super.sizes(), at::IntArrayRef({scale.size(0), (kGroups + width - 1) / width}));
  ASSERT_LT(stored.at("scale_codes").max().item<int64_t>(), int64_t{1} << bits);
  for (int64_t row = 0; row < scale.size(0); ++row) {
    for (int64_t g = 0; g < kGroups; ++g) {
      double largest = 0;
      for (int64_t h = g / width * width; h < std::min(kGroups, (g / width + 1) * width); ++h) {
        largest = std::max(largest, std::abs(scale[row][h].item<double>()));
      }
      const double unit = super[row][g / width].item<double>(), exact = scale[row][g].item<double>();
      ASSERT_NEAR(unit, largest / static_cast<double>(count), unit * 0x1p-10);
      const double q =
          std::clamp(std::nearbyint(std::abs(exact) / unit), from_zero ? 0.0 : 1.0, static_cast<double>(count));
      ASSERT_EQ(found[row][g].item<double>(), (exact < 0 ? -q : q) * unit) << row << ", " << g;
    }
  }
}

TEST(TwoLevelScales, AreTheNearestMultiplesOfASharedScale) {
  at::manual_seed(9);
  const at::Tensor scale = at::rand({4, kGroups}) + 0.05;
  const at::Tensor sign = at::where(at::rand({4, kGroups}) < 0.5, -1.0, 1.0).to(at::kFloat);
  for (const int64_t share : {-1, 1, 2, 3, 7, 16}) {
    for (int64_t bits = 1; bits <= 8; ++bits) {
      expect_two_levels(bits, share, false, scale);
      if (bits >= 2) expect_two_levels(bits, share, true, scale * sign);
      expect_two_levels(bits, share, false, scale - 0.05, /*from_zero=*/true);
      if (bits >= 2) expect_two_levels(bits, share, true, (scale - 0.05) * sign, /*from_zero=*/true);
    }
  }
}

TEST(TwoLevelScales, OfAGroupOfItsOwnAreAsExactAsTheDtype) {
  at::manual_seed(10);
  const at::Tensor scale = at::rand({4, kGroups}) + 0.05;
  const at::Tensor error = at::abs(round_trip(scale_format_of("scale_bits: 8, scale_group: 1"), scale) - scale);
  EXPECT_LE((error / scale).max().item<double>(), 0x1p-10);
}

// minimum = -super_minimum · n, n the nearest from 0 up to as many as the bits count.
TEST(TwoLevelScales, MinimaAreTheNearestMultiplesOfASharedOne) {
  at::manual_seed(11);
  const at::Tensor minimum = -at::rand({4, kGroups}).clamp_min(0.2).sub(0.2);
  const ScaleFormat format = scale_format_of("scale_bits: 4, scale_group: 7, zero_point: min");
  const Parameters stored = format.stored_minimum(minimum);
  const at::Tensor found = format.minimum(stored), super = stored.at("super_minimum");
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t g = 0; g < kGroups; ++g) {
      const double unit = super[row][g / 7].item<double>(), exact = minimum[row][g].item<double>();
      EXPECT_EQ(found[row][g].item<double>(), -std::clamp(std::nearbyint(-exact / unit), 0.0, 15.0) * unit);
    }
  }
  EXPECT_EQ(parameter_bits(format.minimum_layout({4, kGroups})), 4 * (kGroups * 4 + (kGroups + 6) / 7 * 16));
}

TEST(TwoLevelScales, CostTheirBitsAndTheSharedScales) {
  const Parameters layout = scale_format_of("scale_bits: 4, scale_group: 8").layout({10, 16});
  EXPECT_EQ(parameter_bits(layout), 10 * 16 * 4 + 10 * 2 * 16);
}

}  // namespace
}  // namespace quant
