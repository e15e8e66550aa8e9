// Packed products of codes that are used several times, against the decoded weight.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/draws.h"
#include "quant/linear/quantized_linear.h"
#include "replication/config.h"
#include "tests/support/calibrated.h"

namespace replication {
namespace {

constexpr int64_t kOut = 48, kIn = 64, kWide = 1088;

at::Tensor normal(int64_t rows, const char* what, int64_t columns = kIn) {
  return quant::normal_draw({"layer", 7}, what, 0, rows, columns);
}

std::shared_ptr<quant::QuantizedLinear> linear(const std::string& replication, const std::string& weight,
                                               const std::string& activation = "", int64_t out = kOut,
                                               int64_t in = kIn) {
  ReplicationConfig config;
  core::bind(core::parse_yaml("{" + replication + "}", "a.yaml"), config, "replication");
  const quant::QuantConfig quant = quant::quant_config("{method: rtn, weight: {" + weight + "}}");
  const core::Slot slot("layer", core::Role::up_proj, out, in, false);
  const quant::Coding coding = coding_of(config)(slot, quant.weight, 7);
  const at::Tensor w = normal(out, "weights", in), bias = normal(1, "bias", out)[0];
  quant::Encoded encoded = coding.format->encode(w, coding.format->fit(w, {}));
  if (coding.refinement)
    encoded = coding.refinement->refine(w, encoded, quant::statistics_of(normal(80, "calibration", in))).encoded;
  auto made = std::make_shared<quant::QuantizedLinear>(coding.refinement ? coding.refinement->format() : coding.format,
                                                       encoded, bias, 16, at::kFloat);
  if (!activation.empty()) {
    quant::ActivationConfig inputs;
    core::bind(core::parse_yaml("{" + activation + "}", "a.yaml"), inputs, "quant.activation");
    made->quantize_input(quant::make_input_quantizer(inputs, "layer", in));
  }
  return made;
}

double worst(const at::Tensor& found, const at::Tensor& expected) {
  return ((found - expected).abs().max() / expected.abs().max()).item<double>();
}

void expect_packed(quant::QuantizedLinear& it, const std::string& name) {
  for (const int64_t n : {1, 3, 9}) {
    const at::Tensor x = normal(n, "inputs", it.in_features()), dense = it.forward(x);
    for (const int64_t most : {100, 0}) {
      ASSERT_EQ(it.run_packed({.most_rows = most}), "") << name;
      EXPECT_LT(worst(it.forward(x), dense), 1e-5) << name << " rows " << n << " most " << most;
    }
  }
}

TEST(PackedReplicas, RowAndColumnScalesAreSeveralInputsOnTheSameCodes) {
  for (const int64_t bits : {1, 2, 3, 4, 8}) {
    for (const char* options : {"replicas: 1", "replicas: 3", "replicas: 2, group_scale: true"}) {
      const bool has_groups = std::string(options).find("group_scale") != std::string::npos;
      expect_packed(*linear(fmt::format("strategy: row_column, row_column: {{{}}}", options),
                            fmt::format("bits: {}, group_size: {}", bits, has_groups ? 16 : -1)),
                    fmt::format("{} bits {}", options, bits));
    }
  }
}

TEST(PackedReplicas, WindowsAreDecodedInTheKernel) {
  for (const char* replication :
       {"strategy: shifted, shifted: {replicas: 2}", "strategy: shifted, shifted: {replicas: 3}",
        "strategy: parity_sign, parity_sign: {replicas: 2, window_bits: 12}",
        "strategy: parity_sign, parity_sign: {replicas: 3, window_bits: 16}"}) {
    for (const int64_t group : {-1, 0, 16, 32})
      expect_packed(*linear(replication, fmt::format("bits: 2, group_size: {}", group)), replication);
  }
}

const std::vector<std::string> kInLinears{
    "strategy: scales, scales: {replicas: [{}, {offset: 0.5}], collapse: false}",
    "strategy: scales, scales: {replicas: [{}, {group_size: 8}, {scale: 0.7}, {fit: false, jitter: 0.1}, {}], "
    "collapse: false}",
    "strategy: low_rank, low_rank: {rank: 3}",
    "strategy: token_adaptive, token_adaptive: {spread: 0.3, gate_spread: 1}"};

TEST(PackedReplicas, SetsOfScalesABranchAndScalesOfTokens) {
  for (const std::string& replication : kInLinears) {
    for (const int64_t bits : {1, 2, 3, 4, 8}) {
      for (const int64_t group : {-1, 16}) {
        const std::string weight = fmt::format("bits: {}, group_size: {}", bits, group);
        expect_packed(*linear(replication, weight), replication + ", " + weight);
      }
    }
  }
  for (const char* replication : {"strategy: low_rank, low_rank: {rank: 3}", "strategy: token_adaptive"})
    expect_packed(*linear(replication, "bits: 2, group_size: 16, codebook: lloyd_max"), replication);
}

TEST(PackedReplicas, Int8IsTheProductOfTheSameInt8Inputs) {
  for (const std::string& replication : kInLinears) {
    for (const auto& [weight, inputs] : {std::pair{"bits: 2, group_size: 16", "per_token"},
                                         std::pair{"bits: 2, group_size: 32", "per_group, group_size: 32"}}) {
      // Replicas in groups of 8 cut all columns into groups of 8.
      const bool is_fine = replication.find("group_size: 8") != std::string::npos;
      const std::string int8 =
          std::string("bits: 8, symmetry: narrow, granularity: ") + (is_fine ? "per_token" : inputs);
      const at::Tensor x = normal(5, "inputs"), expected = linear(replication, weight, int8)->forward(x);
      const auto it = linear(replication, weight);
      EXPECT_GT(worst(it->forward(x), expected), 1e-4) << "int8 costs something";
      for (const int64_t most : {8, 0}) {
        ASSERT_EQ(it->run_packed({quant::kernels::Precision::integer, most}), "");
        EXPECT_LT(worst(it->forward(x), expected), 1e-5) << replication << ", " << weight << " most " << most;
        EXPECT_LT(worst(it->forward(x.narrow(0, 2, 1)), expected.narrow(0, 2, 1)), 1e-5) << replication << " one input";
      }
    }
  }
}

// Row and column scales multiply inputs of their own, windows share a table; scales of tokens have no common product.
TEST(PackedReplicas, SideBySideGiveWhatEachGives) {
  const std::string grouped = "bits: 2, group_size: 16", rows = "bits: 2, group_size: -1";
  for (const auto& [replication, weight, joins] :
       {std::tuple{"strategy: row_column, row_column: {replicas: 1}", rows, true},
        std::tuple{"strategy: row_column, row_column: {replicas: 2}", rows, true},
        std::tuple{"strategy: low_rank, low_rank: {rank: 3}", grouped, true},
        std::tuple{"strategy: parity_sign, parity_sign: {replicas: 2, window_bits: 12}", grouped, true},
        std::tuple{"strategy: scales, scales: {replicas: [{}, {offset: 0.5}], collapse: false}", grouped, false},
        std::tuple{"strategy: token_adaptive", grouped, false}}) {
    const auto it = linear(replication, weight);
    quant::Parameters parameters = it->parameters();
    for (quant::Parameter& p : parameters) {
      if (p.kind == core::Kind::scale || p.kind == core::Kind::row_scale) p.tensor = p.tensor * 1.25;
    }
    const auto replica = it->with(it->shared_format(), std::move(parameters));
    for (const auto precision : {quant::kernels::Precision::real, quant::kernels::Precision::integer}) {
      ASSERT_EQ(it->run_packed({precision}), "");
      ASSERT_EQ(replica->run_packed({precision}), "");
      EXPECT_EQ(it->reads_once_beside(*replica), joins) << replication;
      for (const int64_t n : {1, 3}) {
        for (const int64_t inputs : {1, 2}) {
          const at::Tensor x = normal(inputs * n, "inputs").reshape({inputs, n, kIn});
          const at::Tensor y = it->forward_beside({it.get(), replica.get()}, x);
          EXPECT_GT(worst(y[1], y[0]), 0.01) << replication;
          EXPECT_TRUE(y[0].equal(it->forward(x[0]))) << replication;
          EXPECT_TRUE(y[1].equal(replica->forward(x[inputs - 1]))) << replication;
        }
      }
    }
  }
}

// As many rows as columns: what belongs to columns is not mistaken for rows.
TEST(PackedReplicas, WideWeightsAreDecodedTileByTile) {
  for (const char* replication :
       {"strategy: low_rank, low_rank: {rank: 3}", "strategy: token_adaptive, token_adaptive: {spread: 0.3}",
        "strategy: row_column, row_column: {replicas: 2}"}) {
    const bool has_groups = std::string(replication).find("row_column") == std::string::npos;
    const std::string weight = fmt::format("bits: 2, group_size: {}", has_groups ? 16 : -1);
    expect_packed(*linear(replication, weight, "", kWide, kWide), replication);
  }
}

TEST(PackedReplicas, OtherUsesOfCodesHaveAReason) {
  const std::string weight = "bits: 2, group_size: 16";
  for (const char* scales : {"replicas: [{}, {clip: 0.7}], own_codes: true", "replicas: [{}, {noise: 0.1}]"}) {
    const std::string replication = fmt::format("strategy: scales, scales: {{{}}}", scales);
    EXPECT_EQ(linear(replication, weight)->run_packed({}), "no kernel decodes scales") << scales;
  }
}

TEST(PackedReplicas, OtherWindowsHaveAReason) {
  const auto it =
      linear("strategy: parity_sign, parity_sign: {replicas: 2, window_bits: 6}", "bits: 3, group_size: 32");
  EXPECT_EQ(it->run_packed({}), "no kernel decodes parity_sign of 3 bits in groups of 32");
}

}  // namespace
}  // namespace replication
