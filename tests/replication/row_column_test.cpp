// Row × column scales against the figures of their definition, against slow solutions, and with the methods.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gmock/gmock.h>

#include "core/linalg.h"
#include "quant/grids/draws.h"
#include "replication/config.h"
#include "tests/support/calibrated.h"

namespace replication {
namespace {

const quant::Place kRowColumnPlace{"layer", 7};

at::Tensor normal_matrix(int64_t rows, int64_t columns, const char* what = "weights") {
  return quant::normal_draw(kRowColumnPlace, what, 0, rows, columns);
}

struct RowColumn {
  ReplicationConfig config;
  quant::QuantConfig quant;
  quant::Coding coding;

  explicit RowColumn(const at::Tensor& w, const std::string& options = "{}",
                     const std::string& weight = "{bits: 2, group_size: -1}", const std::string& method = "rtn") {
    core::bind(core::parse_yaml("{strategy: row_column, row_column: " + options + "}", "a.yaml"), config,
               "replication");
    quant = quant::quant_config("{method: " + method + ", weight: " + weight + "}");
    const core::Slot slot("layer", core::Role::up_proj, w.size(0), w.size(1), false);
    coding = coding_of(config)(slot, quant.weight, kRowColumnPlace.seed);
  }
  at::Tensor nearest(const at::Tensor& w) const {
    const quant::Encoded encoded = quant::round_to_nearest(w, *coding.format, {});
    return coding.format->decode(encoded.codes, encoded.parameters);
  }
  // By the method, and refined.
  at::Tensor approximation(const at::Tensor& w, const quant::Statistics& x) const {
    core::Slot slot("layer", core::Role::up_proj, w.size(0), w.size(1), false);
    slot.put(std::make_shared<core::DenseLinear>(w, at::Tensor(), 32));
    static toy::Toy toy;
    const core::Streams streams;
    core::BlockContext context{*toy.model, toy.model->block(0), 0, 0, streams};
    quant::Encoded encoded =
        quant.methods.at(quant.method)
            ->quantize(context, {{.slot = &slot, .format = coding.format, .input = nullptr, .inputs = x}})
            .at(0)
            .encoded;
    const quant::Refined refined = coding.refinement->refine(w, std::move(encoded), x);
    return coding.refinement->format()->decode(refined.encoded.codes, refined.encoded.parameters);
  }
};

double relative(const at::Tensor& w, const at::Tensor& approximation) {
  return core::sum_of_squares(w - approximation) / core::sum_of_squares(w);
}

// 1 % of the columns are eight times as large, in 7 of the 16 groups of 64 (10 random ones hit 7 or 8).
at::Tensor with_outlier_columns() {
  at::Tensor size = at::ones({1024});
  for (int64_t j : {10, 40, 100, 130, 180, 300, 420, 440, 700, 900}) size[j] = 8;
  return normal_matrix(1024, 1024) * size;
}

// Midrise levels with a least-squares scale per group, codes and scales in turn.
double least_squares_groups(const at::Tensor& w, int64_t size) {
  const at::Tensor x = w.reshape({-1, size});
  at::Tensor s = 0.996 * x.std(1, /*unbiased=*/false, /*keepdim=*/true), q;
  const auto codes = [&] { return at::clamp(at::floor(x / s) + 0.5, -1.5, 1.5); };
  for (int i = 0; i < 15; ++i) {
    q = codes();
    s = (q * x).sum(1, true) / (q * q).sum(1, true);
  }
  return relative(x, s * codes());
}

TEST(RowColumn, RemovesWhatOutlierColumnsCostGroups) {
  const at::Tensor w = with_outlier_columns();
  EXPECT_NEAR(relative(w, RowColumn(w).nearest(w)), 0.1145, 0.02 * 0.1145);
  EXPECT_NEAR(least_squares_groups(w, 64), 0.2971, 0.02 * 0.2971);
}

TEST(RowColumn, StaysAboveTheBoundOfANormalSource) {
  const at::Tensor w = normal_matrix(512, 512);
  for (int64_t R : {1, 2, 4}) {
    const RowColumn one(w, fmt::format("{{replicas: {}}}", R));
    const double bits =
        2 + static_cast<double>(quant::parameter_bits(one.coding.format->layout(512, 512))) / (512.0 * 512.0);
    EXPECT_DOUBLE_EQ(bits, 2 + 16.0 * static_cast<double>(R) * 1024 / (512 * 512));
    EXPECT_GT(relative(w, one.nearest(w)), std::pow(2, -2 * bits));
    EXPECT_LT(relative(w, one.nearest(w)), 0.1188 * 1.01) << "one scale for all weights";
  }
}

TEST(RowColumn, MoreProductsFollowAVarianceThatIsASumOfProducts) {
  const at::Tensor rows = normal_matrix(256, 4, "rows").abs(), columns = normal_matrix(256, 4, "columns").abs();
  const at::Tensor w = normal_matrix(256, 256) * at::mm(rows, columns.t()).sqrt();
  const auto error = [&](int64_t R) {
    return relative(w, RowColumn(w, fmt::format("{{replicas: {}}}", R)).nearest(w));
  };
  const double one = error(1), four = error(4);
  EXPECT_LT(four, 0.95 * one);
}

TEST(RowColumn, MoreRoundsAreNeverWorse) {
  const at::Tensor w = with_outlier_columns().slice(0, 0, 64);
  double before = 1e9;
  for (int rounds : {0, 1, 4, 16}) {
    const double now = relative(w, RowColumn(w, fmt::format("{{iterations: {}}}", rounds)).nearest(w));
    EXPECT_LE(now, before);
    before = now;
  }
}

TEST(RowColumn, EveryWeightTakesTheNearestOfItsOwnLevels) {
  const at::Tensor w = normal_matrix(16, 64);
  for (const char* options : {"{}", "{replicas: 3}", "{replicas: 2, group_scale: true}"}) {
    const RowColumn one(w, options, "{bits: 2, group_size: -1}");
    const quant::Encoded encoded = quant::round_to_nearest(w, *one.coding.format, {});
    const auto decoded = [&](const at::Tensor& codes) { return one.coding.format->decode(codes, encoded.parameters); };
    const at::Tensor error = (decoded(encoded.codes) - w).abs();
    for (int64_t k = 0; k < 4; ++k) {
      const at::Tensor other = (decoded(at::full_like(encoded.codes, k)) - w).abs();
      EXPECT_TRUE((error <= other + 1e-5).all().item<bool>()) << options << " " << k;
    }
  }
}

// One row's factor for given b, by the closed form of a weighted regression on one column.
TEST(RowColumn, TheLastRoundIsLeastSquaresUnderTheInputs) {
  const at::Tensor w = normal_matrix(8, 64);
  const quant::Statistics x = quant::statistics_of(quant::correlated_inputs(300, 64));
  const RowColumn one(w, "{}", "{bits: 2, group_size: -1, scale_dtype: float32}");
  quant::Encoded encoded = quant::round_to_nearest(w, *one.coding.format, x);
  const at::Tensor b = encoded.parameters.at("column_scale").clone(), c = encoded.codes.to(at::kFloat) - 1.5;
  const quant::Refined refined = one.coding.refinement->refine(w, encoded, x);
  const at::Tensor h = x.mean_square, basis = c * b.t();
  const at::Tensor a = (h * w * basis).sum(1, true) / (h * basis * basis).sum(1, true);  // [O, 1]
  const at::Tensor column = (w * c * a).sum(0) / (c * c * a * a).sum(0);                 // [I], given a
  const at::Tensor expected = c * at::mm(a, column.unsqueeze(0));
  const at::Tensor found = one.coding.refinement->format()->decode(refined.encoded.codes, refined.encoded.parameters);
  EXPECT_LT(relative(expected, found), 1e-8);
}

TEST(RowColumn, WithGptqLosesLessThanRoundingAndLdlqWorksToo) {
  const at::Tensor w = normal_matrix(64, 128) / 8, inputs = quant::correlated_inputs(1024, 128);
  const quant::Statistics x = quant::statistics_of(inputs);
  const auto error = [&](const char* method) {
    const RowColumn one(w, "{replicas: 2}", "{bits: 2, group_size: -1}", method);
    return quant::output_error(w, one.approximation(w, x), x.hessian);
  };
  const double rtn = error("rtn");
  EXPECT_LT(error("gptq"), 0.85 * rtn);
  EXPECT_LT(error("ldlq"), 0.95 * rtn);
}

TEST(RowColumn, ZerosAndUnknownInputsAreHarmless) {
  const at::Tensor zeros = at::zeros({16, 32});
  EXPECT_TRUE(at::isfinite(RowColumn(zeros).nearest(zeros)).all().item<bool>());
  const at::Tensor w = normal_matrix(16, 32);
  EXPECT_TRUE(at::isfinite(RowColumn(w).approximation(w, {})).all().item<bool>());
}

TEST(RowColumn, MistakesAreTold) {
  const at::Tensor w = normal_matrix(16, 64);
  const auto message = [&](const char* options, const char* weight) {
    return core::message_of([&] { RowColumn(w, options, weight); });
  };
  EXPECT_EQ(
      message("{}", "{bits: 2, group_size: 32}"),
      "layer: row_column has no scale per group. Set quant.weight.group_size: -1, or row_column.group_scale: true.");
  EXPECT_THAT(message("{}", "{bits: 2, group_size: -1, symmetry: span}"), ::testing::HasSubstr("is not read"));
  EXPECT_THAT(message("{}", "{bits: 2, group_size: -1, scale_bits: 4}"), ::testing::HasSubstr("two-level"));
  EXPECT_EQ(message("{replicas: 17}", "{bits: 2, group_size: -1}"),
            "layer: row_column: 17 replicas exceed a weight of 16 × 64. Lower replication.row_column.replicas.");
  EXPECT_THAT(message("{group_scale: true}", "{bits: 2, group_size: 48}"), ::testing::HasSubstr("does not divide 64"));
}

}  // namespace
}  // namespace replication
