// LDLQ on scalar grids: against rounding to nearest, and against itself in double with plain loops.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/support/calibrated.h"
#include "tests/support/slow_gptq.h"

namespace quant {
namespace {

at::Tensor ldlq_weights() {
  at::manual_seed(3);
  return at::randn({37, 192}) / 8;
}

TEST(Ldlq, OfGridsWithTheIdentityAsHessianIsRoundingToNearestBitForBit) {
  const Statistics x = statistics_with(at::eye(192));
  for (const char* grid :
       {"bits: 2, group_size: 32", "bits: 3, symmetry: midrise, group_size: 0", "bits: 4, group_size: 24, offset: 0.25",
        "bits: 2, codebook: lloyd_max", "bits: 3, rounding: stochastic", "bits: 2, group_size: -1, range: mse"}) {
    const std::string weight = std::string(", weight: {") + grid + "}}";
    EXPECT_TRUE(at::equal(quantized_as("{method: ldlq" + weight, ldlq_weights(), x).encoded.codes,
                          quantized_as("{method: rtn" + weight, ldlq_weights(), x).encoded.codes))
        << grid;
  }
}

// Blocks of 16 in double: E U_BB⁻¹ by back substitution.
at::Tensor slow_ldlq(const at::Tensor& W, const at::Tensor& H, const Parameters& p, int64_t S, int64_t top) {
  const int64_t O = W.size(0), I = W.size(1);
  std::vector<double> damped(I * I);
  double mean = 0;
  for (int64_t j = 0; j < I; ++j) mean += H[j][j].item<double>() / static_cast<double>(I);
  const at::Tensor h = H.contiguous();
  for (int64_t i = 0; i < I * I; ++i) damped[i] = h.const_data_ptr<float>()[i] + (i % (I + 1) == 0 ? .01 * mean : 0);
  const std::vector<double> u = inverse_factor_of(damped, I);
  const at::Tensor scale = p.at("scale"), zero = p.at("zero_point").to(at::kFloat);
  at::Tensor codes = at::empty({O, I}, at::kByte);
  for (int64_t o = 0; o < O; ++o) {
    std::vector<double> w(I);
    for (int64_t j = 0; j < I; ++j) w[j] = W[o][j].item<double>();
    for (int64_t first = 0; first < I; first += 16) {
      std::vector<double> y(16);
      for (int64_t j = first; j < first + 16; ++j) {
        const double s = scale[o][j / S].item<double>(), z = zero[o][j / S].item<double>();
        const double k = std::clamp(std::nearbyint(w[j] / s + z), 0.0, static_cast<double>(top));
        codes[o][j] = static_cast<int>(k);
        double sum = w[j] - s * (k - z);  // y U_BB = E
        for (int64_t i = first; i < j; ++i) sum -= y[i - first] * u[i * I + j];
        y[j - first] = sum / u[j * I + j];
      }
      for (int64_t later = first + 16; later < I; ++later) {
        for (int64_t i = first; i < first + 16; ++i) w[later] -= y[i - first] * u[i * I + later];
      }
    }
  }
  return codes;
}

TEST(Ldlq, AgreesWithTheSlowOneInDouble) {
  const Statistics x = statistics_of(correlated_inputs(8 * 192, 192));
  const at::Tensor w = ldlq_weights();
  const Encoded fast = quantized_as("{method: ldlq, weight: {bits: 3, group_size: 32}}", w, x).encoded;
  const at::Tensor slow = slow_ldlq(w, x.hessian, fast.parameters, 32, 7);
  EXPECT_GE((fast.codes == slow).to(at::kFloat).mean().item<double>(), 0.999);
}

TEST(Ldlq, HasALowerOutputErrorThanRoundingToNearest) {
  const Statistics x = statistics_of(correlated_inputs(4 * 192, 192));
  const at::Tensor w = ldlq_weights();
  const std::string grid = ", weight: {bits: 2, group_size: 32}}";
  EXPECT_LT(output_error(w, decoded_as("{method: ldlq" + grid, w, x), x.hessian),
            0.95 * output_error(w, decoded_as("{method: rtn" + grid, w, x), x.hessian));
}

TEST(Ldlq, FallsBackToRoundingToNearestAndSaysWhy) {
  const Quantized result = quantized_as("{method: ldlq, weight: {bits: 3}}", ldlq_weights(), Statistics{});
  EXPECT_EQ(result.fallback, "no calibration token reached it");
}

}  // namespace
}  // namespace quant
