// Products that are trained: their gradients against plain autograd, and that against finite differences in double.
#include <ATen/ATen.h>
#include <fmt/format.h>
#include <gtest/gtest.h>

#include "quant/grids/make_format.h"
#include "quant/qat/affine_product.h"
#include "quant/qat/decoded_product.h"
#include "quant/qat/straight_through.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

struct Sizes {
  int64_t bits, rows, groups, size, tokens;
  double sigma;
};

void PrintTo(const Sizes& s, std::ostream* out) {
  *out << s.bits << " bits, " << s.rows << " rows of " << s.groups << " groups of " << s.size << ", " << s.tokens
       << " tokens, noise " << s.sigma;
}

// One linear with an affine grid and inputs; leaves of its own each time.
struct Linear {
  explicit Linear(const Sizes& s) {
    at::manual_seed(5);
    const int64_t I = s.groups * s.size;
    codes = at::randint(int64_t{1} << s.bits, {s.rows, I}).to(at::kByte);
    scale = (at::rand({s.rows, s.groups}) + 0.1).set_requires_grad(true);
    shift = (at::randn({s.rows, s.groups}) + 1).set_requires_grad(true);
    x = at::randn({2, s.tokens, I}).set_requires_grad(true);
    upstream = at::randn({2, s.tokens, s.rows});
    noise = {{"layer", 3}, /*step=*/9, s.sigma};
  }
  at::Tensor codes, scale, shift, x, upstream;
  TrainNoise noise;
};

void expect_near(const at::Tensor& actual, const at::Tensor& expected, double relative, const char* what) {
  ASSERT_TRUE(actual.defined()) << what;
  ASSERT_EQ(actual.sizes(), expected.sizes()) << what;
  const double size = expected.abs().max().item<double>(), error = (actual - expected).abs().max().item<double>();
  EXPECT_LE(error, relative * size) << what << ": largest of the expected is " << size;
}

class Product : public ::testing::TestWithParam<Sizes> {};

TEST_P(Product, HasTheValueAndGradientsOfPlainAutograd) {
  const Sizes& s = GetParam();
  Linear fused(s), plain(s);
  const at::Tensor y =
      affine_product(fused.x, core::Codes::pack(fused.codes, s.bits), fused.scale, fused.shift, fused.noise);
  const at::Tensor draw = plain.noise.draw(s.rows, s.groups * s.size);
  const at::Tensor wanted = affine_product_reference(plain.x, plain.codes, plain.scale, plain.shift, draw);
  expect_near(y.detach(), wanted.detach(), 1e-5, "value");
  y.backward(fused.upstream);
  wanted.backward(plain.upstream);
  expect_near(fused.x.grad(), plain.x.grad(), 1e-5, "x");
  expect_near(fused.scale.grad(), plain.scale.grad(), 1e-5, "scale");
  expect_near(fused.shift.grad(), plain.shift.grad(), 1e-5, "shift");
}

INSTANTIATE_TEST_SUITE_P(All, Product,
                         ::testing::Values(Sizes{1, 3, 2, 8, 4, 0}, Sizes{2, 7, 3, 5, 6, 0}, Sizes{3, 5, 1, 9, 3, 0},
                                           Sizes{4, 16, 4, 64, 32, 0}, Sizes{8, 4, 2, 16, 8, 0},
                                           Sizes{2, 1100, 2, 64, 8, 0},  // three tiles of rows
                                           Sizes{2, 600, 2, 32, 8, 0.3}));

TEST(AffineProduct, GivesNoGradientToWhatAsksForNone) {
  Linear linear({2, 4, 2, 8, 3, 0});
  linear.x.set_requires_grad(false);
  linear.shift.set_requires_grad(false);
  affine_product(linear.x, core::Codes::pack(linear.codes, 2), linear.scale, linear.shift).sum().backward();
  EXPECT_TRUE(linear.scale.grad().defined());
  EXPECT_FALSE(linear.x.grad().defined());
  EXPECT_FALSE(linear.shift.grad().defined());
}

// ---- finite differences ----

// Of f at x, value by value, by central differences in double.
at::Tensor finite_differences(const std::function<double(const at::Tensor&)>& f, const at::Tensor& x) {
  const double h = 1e-5;
  at::Tensor gradient = at::empty_like(x), at = x.detach().clone();
  for (int64_t i = 0; i < x.numel(); ++i) {
    at::Tensor value = at.view({-1})[i];
    const double before = value.item<double>();
    value.fill_(before + h);
    const double above = f(at);
    value.fill_(before - h);
    gradient.view({-1})[i] = (above - f(at)) / (2 * h);
    value.fill_(before);
  }
  return gradient;
}

TEST(Reference, HasTheGradientsOfFiniteDifferences) {
  const Linear c({2, 3, 2, 4, 3, 0.2});
  const auto wide = [](const at::Tensor& x) { return x.detach().to(at::kDouble); };
  const at::Tensor draw = wide(c.noise.draw(3, 8)), upstream = wide(c.upstream);
  std::vector<at::Tensor> values{wide(c.x), wide(c.scale), wide(c.shift)};
  const auto loss = [&](const std::vector<at::Tensor>& v) {
    return at::sum(affine_product_reference(v[0], c.codes, v[1], v[2], draw) * upstream);
  };
  for (size_t i = 0; i < values.size(); ++i) {
    std::vector<at::Tensor> leaves = values;
    leaves[i] = values[i].clone().set_requires_grad(true);
    loss(leaves).backward();
    const at::Tensor wanted = finite_differences(
        [&](const at::Tensor& moved) {
          std::vector<at::Tensor> v = values;
          v[i] = moved;
          return loss(v).item<double>();
        },
        values[i]);
    expect_near(leaves[i].grad(), wanted, 1e-7, fmt::format("argument {}", i).c_str());
  }
}

// ---- formats of any kind ----

TEST(DecodedProduct, HasTheValueAndGradientsOfPlainAutograd) {
  at::manual_seed(2);
  const at::Tensor codes = at::randint(4, {6, 8}).to(at::kLong), x0 = at::randn({2, 3, 8}), t0 = at::randn({4}),
                   s0 = at::rand({6, 2}) + 0.1, upstream = at::randn({2, 3, 6});
  const auto decode = [&](const std::vector<at::Tensor>& p) {
    return (p[0].index({codes}).reshape({6, 2, 4}) * p[1].unsqueeze(-1)).reshape({6, 8});
  };
  const auto leaf = [](const at::Tensor& x) { return x.clone().set_requires_grad(true); };
  const at::Tensor x = leaf(x0), table = leaf(t0), scale = leaf(s0), y = decoded_product(x, {table, scale}, decode);
  const at::Tensor x_plain = leaf(x0), table_plain = leaf(t0), scale_plain = leaf(s0),
                   wanted = at::linear(x_plain, decode({table_plain, scale_plain}));
  expect_near(y.detach(), wanted.detach(), 1e-6, "value");
  y.backward(upstream);
  wanted.backward(upstream);
  expect_near(x.grad(), x_plain.grad(), 1e-5, "x");
  expect_near(table.grad(), table_plain.grad(), 1e-5, "table");
  expect_near(scale.grad(), scale_plain.grad(), 1e-5, "scale");
}

TEST(DecodedProduct, GivesNoGradientToWhatAsksForNone) {
  const at::Tensor x = at::ones({2, 3}), a = at::ones({4, 3}).set_requires_grad(true), b = at::ones({4, 3});
  decoded_product(x, {a, b}, [](const std::vector<at::Tensor>& p) { return p[0] * p[1]; }).sum().backward();
  EXPECT_TRUE(a.grad().defined());
  EXPECT_FALSE(b.grad().defined());
}

// ---- rounding ----

TEST(StraightThrough, RoundsToTheDtypeThatIsStoredAndPassesGradients) {
  const auto format = make_format(weight_config("{bits: 2, group_size: 4, zero_point: float}"), "layer", 8);
  Parameters parameters = format->layout(2, 8);
  parameters.at("scale") = at::tensor({0.1f, -0.30001f, 1e-9f, 7.0f}).reshape({2, 2}).set_requires_grad(true);
  parameters.at("zero_point") = at::tensor({1.23456f, 0.0f, -3.3f, 2.0f}).reshape({2, 2}).set_requires_grad(true);
  const Parameters stored = as_stored(*format, parameters);
  const auto half = [](const at::Tensor& x) { return x.detach().to(at::kHalf).to(at::kFloat); };
  at::Tensor scale = half(parameters.at("scale"));
  scale[1][0] = 0x1p-24;  // the smallest number of float16
  EXPECT_TRUE(at::equal(stored.at("scale").detach(), scale));
  EXPECT_TRUE(at::equal(stored.at("zero_point").detach(), half(parameters.at("zero_point"))));
  (stored.at("scale") * 3 + stored.at("zero_point") * 5).sum().backward();
  EXPECT_TRUE(at::equal(parameters.at("scale").grad(), at::full({2, 2}, 3.0)));
  EXPECT_TRUE(at::equal(parameters.at("zero_point").grad(), at::full({2, 2}, 5.0)));
}

}  // namespace
}  // namespace quant
