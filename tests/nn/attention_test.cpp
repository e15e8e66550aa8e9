// Attention against plain loops in double, and the key/value cache.
#include "core/nn/attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "core/error.h"

namespace {

// softmax over the keys that token t may see, head by head. q: [B, T, H, C]; k, v: [B, P + T, K, C]; double.
at::Tensor attention_by_loops(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t B = q.size(0), T = q.size(1), H = q.size(2), C = q.size(3), K = k.size(2), P = k.size(1) - T;
  at::Tensor out = at::zeros({B, T, H, C}, at::kDouble);
  const auto qa = q.accessor<double, 4>(), ka = k.accessor<double, 4>(), va = v.accessor<double, 4>();
  auto oa = out.accessor<double, 4>();
  for (int64_t b = 0; b < B; ++b)
    for (int64_t t = 0; t < T; ++t)
      for (int64_t h = 0; h < H; ++h) {
        const int64_t kv = h / (H / K);
        std::vector<double> weight(P + t + 1);
        double sum = 0;
        for (size_t s = 0; s < weight.size(); ++s) {
          double score = 0;
          for (int64_t c = 0; c < C; ++c) score += qa[b][t][h][c] * ka[b][s][kv][c];
          sum += weight[s] = std::exp(score / std::sqrt(static_cast<double>(C)));
        }
        for (size_t s = 0; s < weight.size(); ++s)
          for (int64_t c = 0; c < C; ++c) oa[b][t][h][c] += weight[s] / sum * va[b][s][kv][c];
      }
  return out.reshape({B, T, H * C});
}

struct Case {
  int64_t batch, past, tokens, heads, kv_heads, head_width;
};

class Attend : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(Shapes, Attend,
                         testing::Values(Case{1, 0, 1, 1, 1, 2}, Case{2, 0, 9, 4, 4, 8}, Case{2, 0, 33, 4, 2, 16},
                                         Case{1, 0, 64, 6, 1, 6}, Case{2, 5, 1, 4, 2, 8}, Case{1, 40, 7, 4, 2, 16},
                                         Case{3, 2, 3, 8, 4, 32}, Case{1, 63, 1, 9, 3, 64}, Case{3, 200, 1, 6, 2, 17},
                                         Case{1, 600, 1, 4, 4, 128}));

TEST_P(Attend, EqualsPlainLoops) {
  const auto [B, P, T, H, K, C] = GetParam();
  at::manual_seed(3);
  const at::Tensor q = at::randn({B, P + T, H, C}), k = at::randn({B, P + T, K, C}), v = at::randn({B, P + T, K, C});
  core::KvCache cache(1, P + T);
  core::Pass pass;
  if (P > 0) {
    pass.cache = &cache;
    core::attend(q.narrow(1, 0, P).contiguous(), k.narrow(1, 0, P).contiguous(), v.narrow(1, 0, P).contiguous(), pass);
    pass.position = P;
  }
  const at::Tensor y = core::attend(q.narrow(1, P, T).contiguous(), k.narrow(1, P, T).contiguous(),
                                    v.narrow(1, P, T).contiguous(), pass);
  const at::Tensor exact = attention_by_loops(q.narrow(1, P, T).to(at::kDouble), k.to(at::kDouble), v.to(at::kDouble));
  ASSERT_EQ(y.sizes(), exact.sizes());
  // Scores of magnitude up to ~8 are rounded in float32, softmax turns their absolute error into a relative one.
  EXPECT_LE((y - exact).abs().max().item<double>(), 32 * 0x1p-23 * v.abs().max().item<double>());
}

// Queries of two replicas, two sequences each, on the keys of the first; values are wider than keys.
TEST(Attention, OneTokenOfReplicasIsThatOfManyTokens) {
  at::manual_seed(4);
  const int64_t P = 70;
  const at::Tensor q = at::randn({4, 1, 6, 24}), k = at::randn({2, P, 3, 24}), v = at::randn({2, P, 3, 40});
  const core::KeyValues held{k, v};
  core::Pass pass;
  pass.given = &held;
  const at::Tensor y = core::attend(q, {}, {}, pass);
  ASSERT_EQ(y.sizes(), (std::vector<int64_t>{4, 1, 6 * 40}));
  for (int64_t r = 0; r < 2; ++r) {
    const at::Tensor queries = q.narrow(0, 2 * r, 2).transpose(1, 2).to(at::kDouble);  // [B, H, 1, C]
    const auto for_heads = [](const at::Tensor& t) {
      return t.to(at::kDouble).repeat_interleave(2, 2).transpose(1, 2);
    };
    const at::Tensor weights = at::softmax(at::matmul(queries, for_heads(k).transpose(2, 3)) / std::sqrt(24.0), -1);
    const at::Tensor exact = at::matmul(weights, for_heads(v)).transpose(1, 2).reshape({2, 1, -1});
    EXPECT_LE((y.narrow(0, 2 * r, 2) - exact).abs().max().item<double>(), 32 * 0x1p-23 * v.abs().max().item<double>());
  }
}

TEST(Attention, ATokenDoesNotSeeTheOnesAfterIt) {
  const at::Tensor q = at::randn({1, 6, 2, 4}), k = at::randn({1, 6, 2, 4}), v = at::randn({1, 6, 2, 4});
  const at::Tensor before = core::attend(q, k, v, core::Pass{});
  at::Tensor later_k = k.clone(), later_v = v.clone();
  later_k.narrow(1, 4, 2).fill_(9);
  later_v.narrow(1, 4, 2).fill_(9);
  const at::Tensor after = core::attend(q, later_k, later_v, core::Pass{});
  EXPECT_TRUE(at::allclose(before.narrow(1, 0, 4), after.narrow(1, 0, 4), 1e-6, 1e-6));
  EXPECT_FALSE(at::allclose(before.narrow(1, 4, 2), after.narrow(1, 4, 2)));
}

TEST(KvCache, KeepsTheTokensOfEachStepApart) {
  core::KvCache cache(2, 4);
  cache.append(0, at::full({1, 2, 1, 2}, 1.0), at::full({1, 2, 1, 2}, 2.0));
  cache.append(1, at::full({1, 1, 1, 2}, 3.0), at::full({1, 1, 1, 2}, 4.0));
  const auto [k, v] = cache.append(0, at::full({1, 1, 1, 2}, 5.0), at::full({1, 1, 1, 2}, 6.0));
  EXPECT_EQ(cache.length(0), 3);
  EXPECT_EQ(cache.length(1), 1);
  EXPECT_TRUE(at::equal(k.select(3, 0).reshape(-1), at::tensor({1.0f, 1.0f, 5.0f})));
  EXPECT_TRUE(at::equal(v.select(3, 0).reshape(-1), at::tensor({2.0f, 2.0f, 6.0f})));
}

TEST(KvCache, RefusesMoreTokensThanItsCapacityAndKeepsWhatItHas) {
  core::KvCache cache(1, 4);
  cache.append(0, at::ones({1, 3, 1, 2}), at::ones({1, 3, 1, 2}));
  try {
    cache.append(0, at::ones({1, 2, 1, 2}), at::ones({1, 2, 1, 2}));
    FAIL() << "no error";
  } catch (const core::UserError& error) {
    EXPECT_STREQ(error.what(), "context of 4 tokens is full. Generate fewer tokens or shorten the prompt.");
  }
  EXPECT_EQ(cache.length(0), 3);
}

}  // namespace
