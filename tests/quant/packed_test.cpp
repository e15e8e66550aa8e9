// Packed products of quantized linears against their decoded weight, for every grid, and what they refuse.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "quant/grids/make_format.h"
#include "quant/linear/quantized_linear.h"
#include "tests/quant/grid_cases.h"

namespace quant {
namespace {

using kernels::Precision;

constexpr int64_t kOut = 37, kIn = 96;

at::Tensor normal(int64_t rows, int64_t columns, int64_t seed) {
  at::manual_seed(seed);
  return at::randn({rows, columns});
}

std::shared_ptr<QuantizedLinear> linear(const std::string& variables, const std::string& activation = "") {
  const auto format = make_format(weight_config("{" + variables + "}"), "l", kIn);
  const at::Tensor w = normal(kOut, kIn, 3);
  auto made = std::make_shared<QuantizedLinear>(format, format->encode(w, format->fit(w, {})), normal(1, kOut, 4)[0],
                                                16, at::kFloat);
  if (!activation.empty()) {
    ActivationConfig inputs;
    core::bind(core::parse_yaml("{" + activation + "}", "test"), inputs, "quant.activation");
    made->quantize_input(make_input_quantizer(inputs, "l", kIn));
  }
  return made;
}

double worst(const at::Tensor& found, const at::Tensor& expected) {
  return ((found - expected).abs().max() / expected.abs().max()).item<double>();
}

const std::vector<std::string> kPackedGrids{"symmetry: asymmetric, zero_point: int",
                                            "symmetry: asymmetric, zero_point: float",
                                            "symmetry: midrise",
                                            "symmetry: signed_full",
                                            "symmetry: asymmetric, offset: 0.3",
                                            "scale_dtype: bfloat16",
                                            "codebook: lloyd_max"};

TEST(Packed, EveryGridIsItsDecodedWeight) {
  for (const std::string& grid : kPackedGrids) {
    for (const int64_t bits : {1, 2, 3, 4, 8}) {
      if (bits == 8 && grid.starts_with("codebook")) continue;  // fits no better in 96 weights
      for (const int64_t group : {-1, 0, 16, 32}) {
        const auto it = linear(fmt::format("{}, bits: {}, group_size: {}", grid, bits, group));
        for (const int64_t n : {1, 3, 8, 9}) {
          const at::Tensor x = normal(n, kIn, 5).reshape({1, n, kIn}), dense = it->forward(x);
          ASSERT_EQ(it->run_packed({.most_rows = 100}), "") << grid;
          const at::Tensor packed = it->forward(x);
          EXPECT_EQ(packed.sizes(), dense.sizes());
          EXPECT_LT(worst(packed, dense), 1e-5) << grid << " bits " << bits << " group " << group << " rows " << n;
          ASSERT_EQ(it->run_packed({.most_rows = 0}), "");  // by tile
          EXPECT_LT(worst(it->forward(x), dense), 1e-6) << grid << " bits " << bits << " by tile";
        }
      }
    }
  }
}

TEST(Packed, Int8IsTheProductOfTheSameInt8Inputs) {
  for (const std::string& grid : kPackedGrids) {
    for (const int64_t group : {32, 16, -1}) {  // of the weights; inputs are rounded 32 together where that divides it
      const std::string variables = fmt::format("{}, bits: 2, group_size: {}", grid, group);
      const std::string inputs = group == 16 ? "per_token" : "per_group, group_size: 32";
      const auto dense = linear(variables, "bits: 8, symmetry: narrow, granularity: " + inputs),
                 packed = linear(variables);
      const at::Tensor x = normal(5, kIn, 6), expected = dense->forward(x);
      for (const int64_t most : {8, 0}) {
        ASSERT_EQ(packed->run_packed({Precision::integer, most}), "");
        EXPECT_LT(worst(packed->forward(x), expected), 1e-5) << grid << " rows " << most << " group " << group;
      }
      EXPECT_GT(worst(linear(variables)->forward(x), expected), 1e-4);  // int8 costs something
    }
  }
}

TEST(Packed, WideWeightsAreDecodedTileByTile) {
  const auto format = make_format(WeightConfig{}, "l", 4096);
  const at::Tensor w = normal(700, 4096, 8), x = normal(9, 4096, 9);
  QuantizedLinear it(format, format->encode(w, format->fit(w, {})), at::Tensor(), 16, at::kFloat);
  const at::Tensor dense = it.forward(x);
  ASSERT_EQ(it.run_packed({}), "");
  EXPECT_LT(worst(it.forward(x), dense), 1e-5);
}

// The layout of the kernels is all that is kept, and one for all that share codes; what is saved and hashed stays.
TEST(Packed, CodesAreInMemoryOnce) {
  for (const int64_t bits : {1, 2, 3, 4, 8}) {
    const auto it = linear(fmt::format("bits: {}, group_size: 32", bits));
    const std::string hash = it->codes().hash();
    const at::Tensor canonical = it->codes().packed(), copy = canonical.clone(), weight = it->weight();
    const auto replica = it->with(it->shared_format(), it->parameters());
    const auto other_groups = make_format(weight_config(fmt::format("{{bits: {}, group_size: 16}}", bits)), "l", kIn);
    const auto other = it->with(other_groups, other_groups->fit(weight, {}));
    ASSERT_EQ(it->run_packed({}), "");
    EXPECT_EQ(canonical.use_count(), 1) << "only the test holds the canonical codes";
    const auto order = it->codes().order();
    ASSERT_NE(order, nullptr);
    const int64_t held = order.use_count();
    ASSERT_EQ(replica->run_packed({}), "");
    EXPECT_EQ(order.use_count(), held + 1) << "the replica multiplies with the same memory";
    const at::Tensor x = normal(3, kIn, 9), dense = other->forward(x);
    ASSERT_EQ(other->run_packed({}), "");  // in a layout of its own
    EXPECT_EQ(it->codes().order(), order);
    EXPECT_LT(worst(other->forward(x), dense), 1e-5);
    EXPECT_EQ(it->codes().hash(), hash);
    EXPECT_TRUE(it->codes().packed().equal(copy));
    EXPECT_TRUE(it->weight().equal(weight));
    const at::Tensor index = at::tensor({int64_t{5}, int64_t{0}, kOut - 1}, at::kLong);
    EXPECT_TRUE(it->rows(index).equal(weight.index_select(0, index)));
  }
}

// The same codes under other scales, as replicas of a block have them.
std::vector<std::shared_ptr<QuantizedLinear>> side_by_side(const std::shared_ptr<QuantizedLinear>& first, int64_t R) {
  std::vector<std::shared_ptr<QuantizedLinear>> all{first};
  for (int64_t r = 1; r < R; ++r) {
    Parameters parameters = first->parameters();
    for (Parameter& p : parameters) {
      if (p.kind == core::Kind::scale)
        p.tensor = p.tensor * (1 + 0.1 * normal(p.tensor.size(0), 1, r).clamp(-2, 2)).to(p.stored_dtype).to(at::kFloat);
    }
    all.push_back(first->with(first->shared_format(), std::move(parameters)));
  }
  return all;
}

TEST(Packed, LinearsThatReadOneInputGiveWhatEachGives) {
  for (const std::string& grid : kPackedGrids) {
    for (const Precision precision : {Precision::real, Precision::integer}) {
      const auto a = linear(grid + ", bits: 2, group_size: 32"), b = linear(grid + ", bits: 4, group_size: 32"),
                 c = linear("bits: 8, group_size: 32"), other = linear("bits: 4, group_size: 16");
      for (const auto& it : {a, b, c, other}) ASSERT_EQ(it->run_packed({precision, /*most_rows=*/9}), "");
      for (const std::vector<core::Linear*>& all :
           {std::vector<core::Linear*>{a.get()}, {a.get(), b.get(), c.get()}, {b.get(), other.get()}}) {
        for (const int64_t n : {1, 3, 9, 10}) {  // 10: none runs packed
          const at::Tensor x = normal(n, kIn, 5).reshape({1, n, kIn});
          const std::vector<at::Tensor> y = all.front()->forward_each(all, x);
          ASSERT_EQ(y.size(), all.size());
          for (size_t i = 0; i < all.size(); ++i)
            EXPECT_TRUE(y[i].equal(all[i]->forward(x))) << grid << " rows " << n << " linear " << i;
        }
      }
    }
  }
}

TEST(Packed, LinearsSideBySideGiveWhatEachGives) {
  for (const std::string& grid : kPackedGrids) {
    for (const char* activation : {"", "bits: 8"}) {
      for (const Precision precision : {Precision::real, Precision::integer}) {
        for (const int64_t R : {2, 3, 9}) {
          const auto linears = side_by_side(linear(grid + ", bits: 2, group_size: 32", activation), R);
          std::vector<core::Linear*> all;
          for (const auto& it : linears) {
            ASSERT_EQ(it->run_packed({precision, /*most_rows=*/6}), "");
            all.push_back(it.get());
            EXPECT_TRUE(linears[0]->reads_once_beside(*it));
          }
          for (const int64_t n : {1, 2, 5, 7}) {  // 7: by tile, one after the other
            for (const int64_t inputs : {int64_t{1}, R}) {
              const at::Tensor x = normal(inputs * n, kIn, 5).reshape({inputs, n, kIn});
              const at::Tensor y = linears[0]->forward_beside(all, x);
              ASSERT_EQ(y.sizes(), at::IntArrayRef({R, n, kOut}));
              for (int64_t r = 0; r < R; ++r) {
                const at::Tensor alone = linears[r]->forward(x[inputs == 1 ? 0 : r]);
                EXPECT_TRUE(y[r].equal(alone)) << grid << " of " << R << ", rows " << n << ", inputs " << inputs;
              }
            }
          }
        }
      }
    }
  }
}

TEST(Packed, OnlyLinearsOfTheSameCodesAndInputsAreReadOnce) {
  const std::string variables = "bits: 2, group_size: 32";
  const auto it = linear(variables), other = linear(variables), rounds = linear(variables, "bits: 8");
  const auto replica = side_by_side(it, 2)[1], of_int8 = side_by_side(it, 2)[1], dense = side_by_side(it, 2)[1];
  const auto replica_of_rounds = side_by_side(rounds, 2)[1];
  EXPECT_FALSE(it->reads_once_beside(*replica)) << "not packed yet";
  for (const auto& l : {it, other, rounds, replica, replica_of_rounds}) ASSERT_EQ(l->run_packed({}), "");
  ASSERT_EQ(of_int8->run_packed({Precision::integer}), "");
  EXPECT_TRUE(it->reads_once_beside(*replica));
  EXPECT_TRUE(rounds->reads_once_beside(*replica_of_rounds));
  EXPECT_FALSE(it->reads_once_beside(*other)) << "equal codes in other memory";
  EXPECT_FALSE(it->reads_once_beside(*of_int8));
  EXPECT_FALSE(it->reads_once_beside(*dense));
  const auto tabled = linear("codebook: lloyd_max, bits: 2, group_size: 32");
  quant::Parameters other_levels = tabled->parameters();
  for (Parameter& p : other_levels) {
    if (p.kind == core::Kind::table) p.tensor = p.tensor * 2;
  }
  const auto twice = tabled->with(tabled->shared_format(), std::move(other_levels)), same = side_by_side(tabled, 2)[1];
  for (const auto& l : {tabled, twice, same}) ASSERT_EQ(l->run_packed({}), "");
  EXPECT_TRUE(tabled->reads_once_beside(*same));
  EXPECT_FALSE(tabled->reads_once_beside(*twice)) << "other levels";
  EXPECT_FALSE(it->reads_once_beside(core::DenseLinear(it->weight(), {}, 32)));
  const at::Tensor x = normal(2, kIn, 5).reshape({2, 1, kIn});
  const at::Tensor y = it->forward_beside({it.get(), dense.get()}, x);
  EXPECT_TRUE(y[1].equal(dense->forward(x[1]))) << "then one after the other";
}

TEST(Packed, ThereIsAReasonWhereThereIsNoKernel) {
  EXPECT_EQ(linear("bits: 5, group_size: 32")->run_packed({}), "no kernel has 5-bit codes");
  EXPECT_EQ(linear("bits: 4, group_size: 32, noise: {sigma: 0.1, at: inference}")->run_packed({}),
            "its noise is of every weight");
  const auto it = linear("bits: 5, group_size: 32");
  const at::Tensor x = normal(2, kIn, 7), before = it->forward(x);
  it->run_packed({});
  EXPECT_EQ(it->packed(), nullptr);
  EXPECT_TRUE(it->forward(x).equal(before));
}

}  // namespace
}  // namespace quant
