// Packed products of codes that are used several times, against the decoded weight.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/draws.h"
#include "quant/quantized_linear.h"
#include "replication/config.h"
#include "tests/support/calibrated.h"

namespace replication {
namespace {

constexpr int64_t kOut = 48, kIn = 64;

at::Tensor normal(int64_t rows, const char* what) { return quant::normal_draw({"layer", 7}, what, 0, rows, kIn); }

std::shared_ptr<quant::QuantizedLinear> linear(const std::string& replication, const std::string& weight) {
  ReplicationConfig config;
  core::bind(core::parse_yaml("{" + replication + "}", "a.yaml"), config, "replication");
  const quant::QuantConfig quant = quant::quant_config("{method: rtn, weight: {" + weight + "}}");
  const core::Slot slot("layer", core::Role::up_proj, kOut, kIn, false);
  const auto decoder = coding_of(config)(slot, quant.weight, 7).decoder;
  const at::Tensor w = normal(kOut, "weights");
  return std::make_shared<quant::QuantizedLinear>(decoder, decoder->encode(w, decoder->fit(w, {})), at::Tensor(), 16,
                                                  at::kFloat);
}

void expect_packed(quant::QuantizedLinear& it, const std::string& name) {
  for (const int64_t n : {1, 3, 9}) {
    const at::Tensor x = normal(n, "inputs"), dense = it.forward(x);
    for (const int64_t most : {100, 0}) {
      ASSERT_EQ(it.run_packed({.most_rows = most}), "") << name;
      const double worst = ((it.forward(x) - dense).abs().max() / dense.abs().max()).item<double>();
      EXPECT_LT(worst, 1e-5) << name << " rows " << n << " most " << most;
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

TEST(PackedReplicas, OtherWindowsHaveAReason) {
  const auto it =
      linear("strategy: parity_sign, parity_sign: {replicas: 2, window_bits: 6}", "bits: 3, group_size: 32");
  EXPECT_EQ(it->run_packed({}), "no kernel decodes parity_sign of 3 bits in groups of 32");
}

}  // namespace
}  // namespace replication
