// Searched ranges against plain loops in double and against exhaustive search; then what they buy on normal data.
#include "quant/grids/range_search.h"

#include <ATen/ATen.h>
#include <c10/util/Half.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <map>

#include "quant/grids/make_format.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

// ---- the definition in double: the least loss of a group over all shrink factors ----

double half_rounded(double scale) {
  const double stored = static_cast<float>(c10::Half(static_cast<float>(scale)));
  if (scale == 0) return 0x1p-14;  // of a group of zeros
  if (std::abs(scale) >= 0x1p-18) return stored;
  return std::copysign(std::ceil(static_cast<float>(std::abs(scale)) * 0x1p24) * 0x1p-24, scale);  // upwards
}

double slow_searched_scale(const SlowRange& range, double p, const WeightConfig& config) {
  const double top = top_of(config.bits), half = (top + 1) / 2;
  if (config.symmetry == "asymmetric") return half_rounded(p * (range.hi - range.lo) / top);
  if (config.symmetry == "signed_full") return half_rounded(-p * range.largest_signed() / half);
  if (config.symmetry == "narrow") return half_rounded(p * range.largest() / (half - 1));
  return half_rounded(2 * p * range.largest() / top);  // midrise
}

double slow_searched_zero(const SlowRange& range, double p, double scale, const WeightConfig& config) {
  const double top = top_of(config.bits);
  if (config.symmetry == "asymmetric") return std::clamp(std::nearbyint(-p * range.lo / scale), 0.0, top);
  return config.symmetry == "midrise" ? top / 2 : (top + 1) / 2;
}

using Weighted = std::vector<std::pair<double, double>>;  // weight, importance

double slow_loss(const Weighted& group, const SlowRange& range, double p, const WeightConfig& config) {
  const double scale = slow_searched_scale(range, p, config),
               zero = slow_searched_zero(range, p, scale, config) - config.offset;
  double loss = 0;
  for (const auto& [w, importance] : group) {
    const double code = std::clamp(std::nearbyint(w / scale + zero), 0.0, top_of(config.bits));
    loss += importance * std::pow(std::abs(w - scale * (code - zero)), config.range_search.norm);
  }
  return loss;
}

std::vector<Weighted> groups_of(const at::Tensor& w, const at::Tensor& importance, int64_t group_size) {
  std::vector<Weighted> groups(group_count(group_size));
  for (int64_t i = 0; i < kCaseRows; ++i) {
    for (int64_t j = 0; j < kCaseColumns; ++j) {
      groups[group_of(i, j, group_size)].emplace_back(w[i][j].item<double>(), importance[j].item<double>());
    }
  }
  return groups;
}

// The losses that the format's own scales and zeros cause, group by group, against the least over all candidates.
void expect_least_loss(const Case& c, const at::Tensor& importance) {
  const auto format = format_of(c.config);
  Statistics x;
  x.mean_square = importance;
  const std::vector<Weighted> exact = groups_of(c.w, importance, c.config.group_size),
                              found = groups_of(approximation(*format, c.w, x), importance, c.config.group_size);
  const std::vector<SlowRange> ranges = slow_ranges(c.w, c.config.group_size);
  for (size_t g = 0; g < exact.size(); ++g) {
    double least = slow_loss(exact[g], ranges[g], 1, c.config), loss = 0, size = 0;
    for (int i = 1; i < c.config.range_search.grid * c.config.range_search.max_shrink; ++i) {
      const double p = 1 - static_cast<double>(i) / static_cast<double>(c.config.range_search.grid);
      least = std::min(least, slow_loss(exact[g], ranges[g], p, c.config));
    }
    for (size_t j = 0; j < exact[g].size(); ++j) {
      const auto [w, weight] = exact[g][j];
      loss += weight * std::pow(std::abs(w - found[g][j].first), c.config.range_search.norm);
      size += weight * std::pow(std::abs(w), c.config.range_search.norm);
    }
    // float32 may take a candidate for the better one whose loss is larger by the roundings of a sum of powers.
    ASSERT_NEAR(loss, least, 1e-4 * least + 1e-6 * size) << "group " << g;
  }
}

const std::vector<std::string> kSearchedGrids{"symmetry: asymmetric", "symmetry: midrise", "symmetry: signed_full",
                                              "symmetry: narrow", "offset: 0.4"};

std::vector<std::string> each_with(std::vector<std::string> variables, const std::string& more) {
  for (std::string& v : variables) v += ", " + more;
  return variables;
}

TEST(RangeSearch, MseFindsTheLeastLossOfAllCandidates) {
  const at::Tensor ones = at::ones({kCaseColumns});
  for_all(cases({2, 3}, {-1, 0, 1, 4}, each_with(kSearchedGrids, "range: mse")),
          [&](const Case& c) { expect_least_loss(c, ones); });
  for_all(
      cases({2}, {4}, each_with(kSearchedGrids, "range: mse, range_search: {grid: 17, max_shrink: 0.5, norm: 1.3}")),
      [&](const Case& c) { expect_least_loss(c, ones); });
}

TEST(RangeSearch, ImportanceFindsTheLeastWeightedLoss) {
  const at::Tensor importance = at::linspace(0, 3, kCaseColumns).square();
  for_all(cases({2, 3}, {-1, 0, 4}, each_with(kSearchedGrids, "range: importance")),
          [&](const Case& c) { expect_least_loss(c, importance); });
}

// The whole range wastes levels where there are few (configs/real/README.md).
TEST(RangeSearch, AutoIsMseAtThreeBitsAndFewer) {
  const at::Tensor w = named_data()[4].second;
  for (const auto& [bits, kind] :
       std::map<int, std::string>{{1, "mse"}, {2, "mse"}, {3, "mse"}, {4, "minmax"}, {8, "minmax"}}) {
    const auto with = [&, &bits = bits](const std::string& range) {
      return approximation(*format_of(weight_config(fmt::format("{{bits: {}, group_size: 4{}}}", bits, range))), w);
    };
    EXPECT_TRUE(at::equal(with(", range: auto"), with(", range: " + kind))) << bits;
  }
  EXPECT_EQ(WeightConfig{}.range, "auto");
  EXPECT_FALSE(at::equal(approximation(*format_of(weight_config("{bits: 3, group_size: 4, range: mse}")), w),
                         approximation(*format_of(weight_config("{bits: 3, group_size: 4, range: minmax}")), w)));
}

TEST(RangeSearch, InputsThatAreAlwaysZeroLeaveTheWholeRange) {
  const WeightConfig config = weight_config("{bits: 2, group_size: 4, range: importance}");
  Statistics x;
  x.mean_square = at::zeros({kCaseColumns});
  const at::Tensor w = named_data()[4].second;
  WeightConfig minmax = config;
  minmax.range = "minmax";
  EXPECT_TRUE(at::equal(approximation(*format_of(config), w, x), approximation(*format_of(minmax), w)));
}

TEST(RangeSearch, ImportanceWithoutStatisticsIsRefused) {
  const auto format = format_of(weight_config("{bits: 2, group_size: 4, range: importance}"));
  EXPECT_TRUE(format->needs().mean_square);
  EXPECT_EQ(core::message_of([&] {
              format->fit(at::ones({kCaseRows, kCaseColumns}), {});
            }),
            "range: importance needs the inputs of the linear. Use range: mse.");
}

// ---- exhaustive search: every choice of codes, the best scale for each ----

double least_squares(const at::Tensor& w, const std::vector<double>& levels) {
  const int64_t count = w.numel(), choices = static_cast<int64_t>(std::pow(levels.size(), count));
  double least = std::numeric_limits<double>::infinity();
  for (int64_t choice = 0; choice < choices; ++choice) {
    double wt = 0, tt = 0, ww = 0;
    int64_t rest = choice;
    for (int64_t j = 0; j < count; ++j, rest /= static_cast<int64_t>(levels.size())) {
      const double value = w[j].item<double>(), t = levels[rest % static_cast<int64_t>(levels.size())];
      wt += value * t, tt += t * t, ww += value * value;
    }
    least = std::min(least, tt > 0 ? ww - wt * wt / tt : ww);
  }
  return least;
}

TEST(RangeSearch, IsBoundedFromBelowByExhaustiveSearch) {
  const std::vector<std::pair<std::string, std::vector<double>>> grids{
      {"bits: 1, symmetry: midrise", {-.5, .5}},
      {"bits: 2, symmetry: midrise", {-1.5, -.5, .5, 1.5}},
      {"bits: 2, symmetry: signed_full", {-2, -1, 0, 1}},
      {"bits: 2, codebook: levels, levels: [-1, -0.2, 0.1, 0.5]", {-1, -.2, .1, .5}}};
  at::manual_seed(3);
  for (const auto& [variables, levels] : grids) {
    SCOPED_TRACE(variables);
    double searched = 0, minmax = 0, exhaustive = 0;
    for (int trial = 0; trial < 20; ++trial) {
      const at::Tensor w = at::randn({1, 4});
      const auto error = [&, &name = variables](const std::string& range) {
        const auto format =
            make_format(weight_config("{group_size: -1, scale_dtype: float32, range_search: {norm: 2}, " + name +
                                      ", range: " + range + "}"),
                        "test", 4);
        return at::sum(at::square(w - approximation(*format, w)), at::kDouble).item<double>();
      };
      const double least = least_squares(w[0], levels);
      EXPECT_GE(error("mse"), least * (1 - 1e-5) - 1e-9);
      EXPECT_LE(error("mse"), error("minmax") * (1 + 1e-5));
      searched += error("mse"), minmax += error("minmax"), exhaustive += least;
    }
    EXPECT_LT(searched, minmax);
    EXPECT_LT(searched, 3 * exhaustive + 0.5) << "far from the best";
  }
}

// ---- what the grids lose on normal weights ----

struct Row {
  std::string variables;
  double error, bits;  // relative MSE, bits per weight
};

void PrintTo(const Row& row, std::ostream* out) { *out << row.variables; }

class NormalWeights : public ::testing::TestWithParam<Row> {};

// The table of the documentation; 327,680 samples, so that 2 % are eight standard errors or more.
TEST_P(NormalWeights, LoseWhatTheTableSays) {
  at::manual_seed(17);
  const at::Tensor w = at::randn({1280, 256});
  const auto format =
      make_format(weight_config("{group_size: 64, range: mse, " + GetParam().variables + "}"), "test", 256);
  const double error =
      at::mean(at::square(w - approximation(*format, w))).item<double>() / at::mean(at::square(w)).item<double>();
  EXPECT_NEAR(error, GetParam().error, 0.02 * GetParam().error);
  const double side = static_cast<double>(parameter_bits(format->layout(1280, 256))) / static_cast<double>(w.numel());
  EXPECT_DOUBLE_EQ(static_cast<double>(format->code_bits()) + side, GetParam().bits);
}

INSTANTIATE_TEST_SUITE_P(
    Table, NormalWeights,
    ::testing::Values(Row{"bits: 2, symmetry: midrise", .1145, 2.25}, Row{"bits: 2, symmetry: signed_full", .127, 2.25},
                      Row{"bits: 2, symmetry: narrow", .145, 2.25}, Row{"bits: 2, symmetry: span", .145, 2.25},
                      Row{"bits: 2, symmetry: noclip", .145, 2.25}, Row{"bits: 2, symmetry: asymmetric", .127, 2.28125},
                      Row{"bits: 2, zero_point: float", .110, 2.5}, Row{"bits: 1, symmetry: span", .59, 1.25},
                      Row{"bits: 1, symmetry: signed_full", .55, 1.25},
                      Row{"bits: 1, symmetry: asymmetric", .55, 1.265625},
                      Row{"bits: 1, symmetry: midrise", .36, 1.25}));

}  // namespace
}  // namespace quant
