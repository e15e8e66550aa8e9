// Quantized inputs while scales are trained: the values of inference, and the gradients that plain loops in double give
// (LSQ; Esser, McKinstry, Bablani, Appuswamy and Modha 2020, arXiv 1902.08153).
#include "quant/grids/activation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/io/support.h"

namespace quant {
namespace {

ActivationConfig activation_config(const std::string& yaml) {
  ActivationConfig config;
  core::bind(core::parse_yaml(yaml, "test"), config, "quant.activation");
  return config;
}

TEST(TrainableInput, OfAStaticQuantizerHasTheGradientsOfPlainLoops) {
  const InputQuantizer skeleton(activation_config("{bits: 3, mode: static, granularity: per_group, group_size: 4}"),
                                {"layer", 1}, 8);
  Parameters parameters = skeleton.parameters();
  const at::Tensor scale = at::tensor({0.3f, 0.2f}).set_requires_grad(true),
                   zero = at::tensor({3.25f, 2.0f}).set_requires_grad(true);
  parameters.at("activation_scale") = scale;
  parameters.at("activation_zero_point") = zero;
  const auto quantizer = skeleton.with(parameters);
  at::manual_seed(4);
  const at::Tensor x = (at::randn({5, 8}) * 0.8).set_requires_grad(true), upstream = at::randn({5, 8});
  const at::Tensor y = quantizer->trainable(x);
  {
    const at::NoGradGuard no_gradient;
    EXPECT_TRUE(at::allclose(y, quantizer->apply(x), 1e-6, 1e-6));
  }
  EXPECT_TRUE(at::equal(y, quantizer->apply(x))) << "with a gradient it is the same function";
  (y * upstream).sum().backward();
  double of_scale[2] = {}, of_zero[2] = {};
  int64_t clamped = 0;
  for (int64_t t = 0; t < 5; ++t) {
    for (int64_t j = 0; j < 8; ++j) {
      const int64_t g = j / 4;
      const double s = scale[g].item<double>(), z = zero[g].item<double>(), u = upstream[t][j].item<double>();
      const double position = x[t][j].item<double>() / s + z, k = std::nearbyint(position);
      const bool inside = k >= 0 && k <= 7;
      clamped += !inside;
      EXPECT_NEAR(x.grad()[t][j].item<double>(), inside ? u : 0, 1e-5);
      of_scale[g] += u * (inside ? k - position : (k < 0 ? 0 : 7) - z);
      of_zero[g] += inside ? 0 : -s * u;
    }
  }
  ASSERT_GT(clamped, 3) << "both cases are there";
  for (int64_t g = 0; g < 2; ++g) {
    EXPECT_NEAR(scale.grad()[g].item<double>(), of_scale[g], 1e-4);
    EXPECT_NEAR(zero.grad()[g].item<double>(), of_zero[g], 1e-5);
  }
}

TEST(TrainableInput, OfADynamicQuantizerPassesGradientsOn) {
  const InputQuantizer quantizer(activation_config("{bits: 4}"), {"layer", 1}, 8);
  const at::Tensor x = at::randn({3, 8}).set_requires_grad(true), upstream = at::randn({3, 8}), y = quantizer.apply(x);
  EXPECT_TRUE(at::allclose(y, quantizer.apply(x.detach()), 1e-6, 1e-6));
  (y * upstream).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), upstream));
}

}  // namespace
}  // namespace quant
