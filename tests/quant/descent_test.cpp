// Coordinate descent behind a method: where it ends no scale and no code can be better by itself, found with plain
// loops in double.
#include "quant/columns/descent.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/linalg.h"
#include "quant/grids/make_format.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

constexpr int64_t kRows = 5, kColumns = 48, kGroup = 16;

at::Tensor weights() {
  at::manual_seed(4);
  return at::randn({kRows, kColumns}) / 4;
}

Statistics inputs() { return statistics_of(correlated_inputs(4 * kColumns, kColumns)); }

// Σ_ij Δ_i H_ij Δ_j of a row, with the damping of descent.h.
double objective(const std::vector<double>& difference, const at::Tensor& hessian) {
  const at::Tensor h = hessian.contiguous();
  const auto* values = h.const_data_ptr<float>();
  double mean = 0, sum = 0;
  for (int64_t i = 0; i < kColumns; ++i) mean += values[i * kColumns + i] / static_cast<double>(kColumns);
  for (int64_t i = 0; i < kColumns; ++i) {
    for (int64_t j = 0; j < kColumns; ++j)
      sum += difference[i] * difference[j] * (values[i * kColumns + j] + (i == j ? 0.01 * mean : 0));
  }
  return sum;
}

std::vector<double> row_of(const at::Tensor& matrix, int64_t row) {
  std::vector<double> values(kColumns);
  for (int64_t j = 0; j < kColumns; ++j) values[j] = matrix[row][j].item<double>();
  return values;
}

std::vector<double> difference_of(const at::Tensor& w, const at::Tensor& levels, int64_t row) {
  std::vector<double> values = row_of(w, row);
  const std::vector<double> coded = row_of(levels, row);
  for (int64_t j = 0; j < kColumns; ++j) values[j] -= coded[j];
  return values;
}

double whole_objective(const at::Tensor& w, const at::Tensor& levels, const at::Tensor& hessian) {
  double sum = 0;
  for (int64_t row = 0; row < kRows; ++row) sum += objective(difference_of(w, levels, row), hessian);
  return sum;
}

const char* const kGrids[] = {"symmetry: midrise", "symmetry: asymmetric, zero_point: int",
                              "symmetry: asymmetric, zero_point: float", "symmetry: signed_full",
                              "codebook: lloyd_max"};

std::string grid_of(const char* variables) {
  return std::string("bits: 2, group_size: 16, scale_dtype: float32, range: mse, ") + variables;
}

struct Descent {
  at::Tensor w = weights();
  Statistics x = inputs();
  std::shared_ptr<const ElementFormat> format;
  Encoded before;

  explicit Descent(const std::string& grid) {
    WeightConfig config;
    core::bind(core::parse_yaml("{" + grid + "}", "test.yaml"), config, "quant.weight");
    format = make_format(config, "test", kColumns, 7);
    before = round_to_nearest(w, *format, x);
  }
  Refined after(int64_t rounds) const { return descended(w, *format, before, x, rounds); }
  at::Tensor levels(const Encoded& e) const { return format->decode(e.codes, e.parameters); }
};

TEST(CoordinateDescent, EndsWhereNoCodeAndNoScaleAloneIsBetter) {
  for (const char* variables : kGrids) {
    SCOPED_TRACE(variables);
    const Descent descent(grid_of(variables));
    const Encoded found = descent.after(100).encoded;
    const at::Tensor levels = descent.levels(found);
    for (int64_t row = 0; row < kRows; ++row) {
      const std::vector<double> difference = difference_of(descent.w, levels, row);
      const double least = objective(difference, descent.x.hessian);
      for (int64_t j = 0; j < kColumns; ++j) {
        for (int64_t code = 0; code < 4; ++code) {
          at::Tensor codes = found.codes.clone();
          codes[row][j] = code;
          std::vector<double> other = difference;
          other[j] =
              descent.w[row][j].item<double>() - descent.format->decode(codes, found.parameters)[row][j].item<double>();
          EXPECT_GE(objective(other, descent.x.hessian), least * (1 - 1e-5)) << row << ", " << j << ": " << code;
        }
      }
      for (int64_t g = 0; g < kColumns / kGroup; ++g) {
        for (const double factor : {0.99, 1.01}) {
          std::vector<double> other = difference;
          for (int64_t j = g * kGroup; j < (g + 1) * kGroup; ++j)
            other[j] = descent.w[row][j].item<double>() - factor * levels[row][j].item<double>();
          EXPECT_GE(objective(other, descent.x.hessian), least * (1 - 1e-5)) << row << ", group " << g;
        }
      }
    }
  }
}

TEST(CoordinateDescent, LowersTheErrorRoundByRoundAndSaysByHowMuch) {
  for (const char* variables : kGrids) {
    SCOPED_TRACE(variables);
    const Descent descent(grid_of(variables));
    const double start = whole_objective(descent.w, descent.levels(descent.before), descent.x.hessian);
    double last = start;
    for (const int64_t rounds : {1, 2, 4}) {
      const Refined found = descent.after(rounds);
      const double left = whole_objective(descent.w, descent.levels(found.encoded), descent.x.hessian);
      EXPECT_LT(left, last * (1 + 1e-6));
      EXPECT_EQ(found.note, fmt::format("descent to {:.3f} of the error", left / start));
      last = left;
    }
    EXPECT_LT(last, 0.8 * start);
  }
}

TEST(CoordinateDescent, KeepsAGroupOfZerosThatNoInputReaches) {
  Descent descent(grid_of("symmetry: signed_full"));
  descent.w.narrow(1, 0, kGroup).zero_();
  descent.x.hessian.narrow(0, 0, kGroup).zero_();
  descent.x.hessian.narrow(1, 0, kGroup).zero_();
  descent.before = round_to_nearest(descent.w, *descent.format, descent.x);
  const Encoded found = descent.after(3).encoded;
  EXPECT_TRUE(at::equal(descent.levels(found).narrow(1, 0, kGroup), at::zeros({kRows, kGroup})));
  EXPECT_TRUE(at::equal(found.parameters.at("scale").select(1, 0), descent.before.parameters.at("scale").select(1, 0)));
  EXPECT_TRUE(at::isfinite(descent.levels(found)).all().item<bool>());
}

TEST(CoordinateDescent, OfTwoLevelScalesChangesCodesAlone) {
  const Descent descent("bits: 2, group_size: 16, scale_bits: 4, range: mse");
  const Encoded found = descent.after(2).encoded;
  EXPECT_TRUE(at::equal(found.parameters.at("scale_codes"), descent.before.parameters.at("scale_codes")));
  EXPECT_LT(whole_objective(descent.w, descent.levels(found), descent.x.hessian),
            whole_objective(descent.w, descent.levels(descent.before), descent.x.hessian));
}

}  // namespace
}  // namespace quant
