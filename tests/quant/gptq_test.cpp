// GPTQ against itself in double with plain loops, against rounding to nearest, and in the corners: dead columns,
// singular and broken Hessians.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/support/calibrated.h"
#include "tests/support/slow_gptq.h"

namespace quant {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr int64_t kGptqRows = 37, kGptqColumns = 192;  // rows: not a multiple of the kernel's tile

at::Tensor gptq_weights(int64_t rows = kGptqRows, int64_t columns = kGptqColumns) {
  at::manual_seed(3);
  return at::randn({rows, columns}) / 8;
}

std::string gptq_yaml(const std::string& options, const std::string& weight) {
  return "{method: gptq, gptq: {" + options + "}, weight: {" + weight + "}}";
}
std::string gptq_rtn(const std::string& weight) { return "{method: rtn, weight: {" + weight + "}}"; }

void expect_same(const Encoded& a, const Encoded& b) {
  EXPECT_TRUE(at::equal(a.codes, b.codes)) << (a.codes != b.codes).sum().item<int64_t>() << " codes differ";
  ASSERT_EQ(a.parameters.size(), b.parameters.size());
  for (size_t i = 0; i < a.parameters.size(); ++i) {
    EXPECT_EQ(a.parameters[i].name, b.parameters[i].name);
    EXPECT_TRUE(at::equal(a.parameters[i].tensor, b.parameters[i].tensor)) << a.parameters[i].name;
  }
}

// ---- with H = 1 no error is worth spreading ----

std::vector<std::string> gptq_grids() {
  std::vector<std::string> all;
  for (const char* levels : {"symmetry: asymmetric", "symmetry: asymmetric, zero_point: float", "symmetry: narrow",
                             "symmetry: span", "symmetry: signed_full", "symmetry: noclip", "symmetry: midrise"}) {
    for (const char* bits : {"bits: 2", "bits: 3", "bits: 4, clip: 0.8, offset: 0.25", "bits: 8"}) {
      for (const char* groups : {"group_size: 32", "group_size: -1", "group_size: 0", "group_size: 64, range: mse"})
        all.push_back(std::string(levels) + ", " + bits + ", " + groups);
    }
  }
  return all;
}

TEST(Gptq, WithTheIdentityAsHessianIsRoundingToNearestBitForBit) {
  const Statistics x = statistics_with(at::eye(kGptqColumns));
  for (const std::string& grid : gptq_grids()) {
    const Encoded nearest = quantized_as(gptq_rtn(grid), gptq_weights(), x).encoded;
    for (const char* options : {"", "act_order: false, static_groups: false", "gar: true, static_groups: false"}) {
      SCOPED_TRACE(grid + " | " + options);
      expect_same(quantized_as(gptq_yaml(options, grid), gptq_weights(), x).encoded, nearest);
    }
  }
}

TEST(Gptq, WithTheIdentityAsHessianAndTwoLevelScalesToo) {
  const Statistics x = statistics_with(at::eye(kGptqColumns));
  for (const char* grid : {"bits: 2, group_size: 16, scale_bits: 4", "bits: 3, group_size: 16, scale_dtype: bfloat16"})
    expect_same(quantized_as(gptq_yaml("", grid), gptq_weights(), x).encoded,
                quantized_as(gptq_rtn(grid), gptq_weights(), x).encoded);
}

TEST(Gptq, WithTheIdentityAsHessianAndOtherLevelsOrDrawnRoundingToo) {
  const Statistics x = statistics_with(at::eye(kGptqColumns));
  for (const char* grid :
       {"codebook: normal_float, bits: 3", "codebook: lloyd_max, bits: 2", "rounding: stochastic, bits: 3",
        "codebook: levels, levels: [-2, -0.5, 0.25, 1], bits: 2", "symmetry: midrise, bits: 1",
        "codebook: normal_float, rounding: stochastic, bits: 4, offset: 0.25"}) {
    SCOPED_TRACE(grid);
    const std::string weight = std::string(grid) + ", group_size: 32";
    expect_same(quantized_as(gptq_yaml("", weight), gptq_weights(), x).encoded,
                quantized_as(gptq_rtn(weight), gptq_weights(), x).encoded);
  }
  const char* drawn = "rounding: stochastic, bits: 3, group_size: 32";
  expect_same(quantized_as(gptq_yaml("gar: true, static_groups: false", drawn), gptq_weights(), x).encoded,
              quantized_as(gptq_rtn(drawn), gptq_weights(), x).encoded);
}

// ---- the algorithm, slowly ----

TEST(Gptq, AgreesWithTheSlowOneInDouble) {
  const Statistics x = statistics_of(correlated_inputs(8 * kGptqColumns, kGptqColumns));
  for (const int64_t bits : {2, 3, 4}) {
    for (const bool act_order : {false, true}) {
      const std::string grid = fmt::format("bits: {}, group_size: 32", bits);
      const std::string options = fmt::format("act_order: {}, damp: 0.02", act_order);
      SCOPED_TRACE(grid + " | " + options);
      const at::Tensor w = gptq_weights();
      const Encoded fast = quantized_as(gptq_yaml(options, grid), w, x).encoded;
      const at::Tensor slow = slow_gptq(w, x.hessian, fast.parameters, 32, (1 << bits) - 1, 0.02, act_order);
      EXPECT_GE((fast.codes == slow).to(at::kFloat).mean().item<double>(), 0.999);
    }
  }
}

// ---- what it is for ----

TEST(Gptq, HasALowerOutputErrorThanRoundingToNearest) {
  const Statistics x = statistics_of(correlated_inputs(4 * kGptqColumns, kGptqColumns));
  const at::Tensor w = gptq_weights();
  for (const char* grid : {"bits: 2, group_size: 32", "bits: 3, group_size: 64, symmetry: midrise",
                           "bits: 4, group_size: -1", "bits: 2, group_size: 32, range: importance"}) {
    const double nearest = output_error(w, decoded_as(gptq_rtn(grid), w, x), x.hessian);
    for (const char* options : {"", "act_order: false, static_groups: false", "gar: true, static_groups: false"}) {
      const double gptq = output_error(w, decoded_as(gptq_yaml(options, grid), w, x), x.hessian);
      EXPECT_LT(gptq, 0.95 * nearest) << grid << " | " << options;
    }
  }
}

// ---- what must not matter ----

TEST(Gptq, PermutedRowsGivePermutedCodes) {
  const Statistics x = statistics_of(correlated_inputs(4 * kGptqColumns, kGptqColumns));
  const at::Tensor order = at::randperm(kGptqRows), w = gptq_weights();
  const char* grid = "bits: 3, group_size: 32";
  const at::Tensor straight = quantized_as(gptq_yaml("", grid), w, x).encoded.codes.index({order});
  const at::Tensor permuted = quantized_as(gptq_yaml("", grid), w.index({order}), x).encoded.codes;
  // The product that spreads errors may sum in another order for another row.
  EXPECT_GE((straight == permuted).to(at::kFloat).mean().item<double>(), 0.999);
}

TEST(Gptq, TheSizeOfBlocksMattersOnlyToRounding) {
  const Statistics x = statistics_of(correlated_inputs(4 * kGptqColumns, kGptqColumns));
  const at::Tensor w = gptq_weights();
  const char* grid = "bits: 3, group_size: 32";
  for (const char* options : {"", "act_order: false, static_groups: false"}) {
    const std::string more = *options ? std::string(options) + ", " : "";
    const at::Tensor whole = quantized_as(gptq_yaml(more + "block_size: 192", grid), w, x).encoded.codes;
    for (const char* size : {"1", "7", "128"}) {
      const at::Tensor codes = quantized_as(gptq_yaml(more + "block_size: " + size, grid), w, x).encoded.codes;
      EXPECT_GE((codes == whole).to(at::kFloat).mean().item<double>(), 0.999) << size << " | " << options;
    }
  }
}

TEST(Gptq, TwoRunsAreBitIdentical) {
  const Statistics x = statistics_of(correlated_inputs(4 * kGptqColumns, kGptqColumns));
  const std::string config = gptq_yaml("", "bits: 2, group_size: 32, range: mse");
  expect_same(quantized_as(config, gptq_weights(), x).encoded, quantized_as(config, gptq_weights(), x).encoded);
}

// ---- corners ----

TEST(Gptq, RoundsAColumnThatNoInputReachedToTheNearest) {
  at::Tensor inputs = correlated_inputs(4 * kGptqColumns, kGptqColumns);
  inputs.select(1, 5).zero_();
  const Statistics x = statistics_of(inputs);
  const char* grid = "bits: 4, group_size: 32";
  const Quantized result = quantized_as(gptq_yaml("", grid), gptq_weights(), x);
  EXPECT_EQ(result.fallback, "");
  EXPECT_TRUE(at::equal(result.encoded.codes.select(1, 5),
                        quantized_as(gptq_rtn(grid), gptq_weights(), x).encoded.codes.select(1, 5)));
}

TEST(Gptq, RaisesTheDampingOfASingularHessian) {
  const at::Tensor direction = at::randn({1, kGptqColumns});
  const Statistics x = statistics_of(direction);  // of rank 1
  const Quantized result = quantized_as(gptq_yaml("damp: 0", "bits: 3, group_size: 32"), gptq_weights(), x);
  EXPECT_EQ(result.fallback, "");
  EXPECT_EQ(result.note, "damp 0.0001");
}

TEST(Gptq, FallsBackToRoundingToNearestAndSaysWhy) {
  const char* grid = "bits: 3, group_size: 32";
  at::Tensor indefinite = at::eye(kGptqColumns), broken = at::eye(kGptqColumns), unknown = at::eye(kGptqColumns);
  unknown[1][1] = std::numeric_limits<float>::quiet_NaN();
  indefinite[0][0] = -1e6;
  broken[2][3] = std::numeric_limits<float>::infinity();
  Statistics nothing;
  const std::vector<std::pair<Statistics, std::string>> cases{
      {statistics_with(indefinite), "the Hessian is singular, also with damp 10"},
      {statistics_with(broken), "the Hessian is not finite"},
      {statistics_with(unknown), "the Hessian is not finite"},
      {nothing, "no calibration token reached it"}};
  for (const auto& [x, reason] : cases) {
    const Quantized result = quantized_as(gptq_yaml("", grid), gptq_weights(), x);
    EXPECT_EQ(result.fallback, reason);
    expect_same(result.encoded, quantized_as(gptq_rtn(grid), gptq_weights(), x).encoded);
  }
}

TEST(Mistakes, OfGptqAreToldBeforeTheRun) {
  using core::message_of;
  EXPECT_EQ(message_of([] { quant_config("gptq: {static_groups: false}"); }),
            "a.yaml:1: quant.gptq.static_groups: act_order scatters the columns of a group, which then cannot be "
            "fitted when it is reached. Set gar: true, act_order: false or static_groups: true.");
  EXPECT_EQ(message_of([] { quant_config("gptq: {gar: true, act_order: false}"); }),
            "a.yaml:1: quant.gptq.gar: gar is an act_order that keeps groups whole. Set act_order: true.");
  const auto model = toy::skeleton();
  const QuantConfig shared = quant_config(
      "{method: gptq, gptq: {act_order: false, static_groups: false}, weight: {group_size: 16, scale_bits: 4}}");
  EXPECT_EQ(message_of([&] { assign(shared, *model); }),
            "model.layers.0.mlp.up_proj: gptq: groups that share scales or a table cannot be fitted one by one. Set "
            "quant.gptq.static_groups: true.");
}

}  // namespace
}  // namespace quant
