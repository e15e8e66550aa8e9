// A mixture of experts against one token after the other, on routes that are easy to get wrong.
#include "models/moe.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "tests/models/support.h"

namespace models {
namespace {

constexpr int64_t kWidth = 8, kExperts = 5, kFfn = 12;

at::Tensor random(at::IntArrayRef shape, int64_t seed) {
  at::manual_seed(static_cast<uint64_t>(seed));
  return at::randn(shape);
}

void fill(core::Slot& slot, int64_t seed) {
  slot.put(std::make_shared<core::DenseLinear>(random({slot.out_features(), slot.in_features()}, seed) / 2,
                                               at::Tensor(), 32));
}

struct Mixture {
  MoeShape shape;
  std::shared_ptr<Moe> moe;
  core::RmsNorm norm{"norm", kWidth, 1e-6};

  explicit Mixture(int64_t top_k, bool normalize = false, bool shared = true) {
    shape = {.width = kWidth, .experts = kExperts, .top_k = top_k, .ffn = kFfn, .normalize = normalize, .scaling = 1.5};
    if (shared) {
      shape.shared_ffn = 2 * kFfn;
      shape.shared_name = "shared_expert";
      shape.shared_gate = true;
    }
    moe = std::make_shared<Moe>("mlp", shape);
    int64_t seed = 1;
    for (core::Slot* slot : slots()) fill(*slot, seed++);
  }
  std::vector<core::Slot*> slots() {
    std::vector<core::Slot*> all;
    for (const core::LinearGroup& group : moe->groups(norm))
      all.insert(all.end(), group.slots.begin(), group.slots.end());
    return all;
  }
  const at::Tensor weight(const std::string& path) {
    for (core::Slot* slot : slots()) {
      if (slot->path() == path) return slot->linear().weight();
    }
    throw std::logic_error(path);
  }
  void set_router(const at::Tensor& w) {
    slots().front()->put(std::make_shared<core::DenseLinear>(w, at::Tensor(), 32));
  }

  at::Tensor swiglu(const std::string& path, const at::Tensor& token) {
    const at::Tensor gate = at::mv(weight(path + ".gate_proj"), token), up = at::mv(weight(path + ".up_proj"), token);
    return at::mv(weight(path + ".down_proj"), gate * at::sigmoid(gate) * up);
  }
  // One token after the other; of equal scores the expert that topk takes.
  at::Tensor slow(const at::Tensor& x) {
    at::Tensor out = at::zeros_like(x);
    const at::Tensor rows = x.reshape({-1, kWidth}), sums = out.reshape({-1, kWidth});
    const at::Tensor chosen = moe->route(rows).experts;
    for (int64_t n = 0; n < rows.size(0); ++n) {
      const at::Tensor token = rows[n], scores = at::softmax(at::mv(weight("mlp.gate"), token), 0);
      double total = 0;
      for (int64_t i = 0; i < shape.top_k; ++i) total += scores[chosen[n][i].item<int64_t>()].item<double>();
      for (int64_t i = 0; i < shape.top_k; ++i) {
        const auto e = chosen[n][i].item<int64_t>();
        const double score = scores[e].item<double>() / (shape.normalize ? total : 1.0) * shape.scaling;
        sums[n] += score * swiglu("mlp.experts." + std::to_string(e), token);
      }
      if (shape.shared_ffn > 0)
        sums[n] += at::sigmoid(at::mv(weight("mlp.shared_expert_gate"), token)) * swiglu("mlp.shared_expert", token);
    }
    return out;
  }
  void expect_as_slow(const at::Tensor& x) { EXPECT_LE(difference(moe->forward(x, {}), slow(x)), 1e-5); }
};

TEST(Moe, IsTheSumOverItsExpertsOneTokenAfterTheOther) {
  const at::Tensor x = random({2, 7, kWidth}, 99);
  for (const int64_t top_k : {1, 2, 5}) {
    for (const bool normalize : {false, true}) {
      for (const bool shared : {false, true}) Mixture(top_k, normalize, shared).expect_as_slow(x);
    }
  }
}

TEST(Moe, SendsTokensToTheBestExpertsAndNoneToOthers) {
  Mixture mixture(2);
  at::Tensor router = at::zeros({kExperts, kWidth});
  router[3][0] = 5;  // tokens with a positive first number go to 3 and 1, the others to 4 and 1
  router[4][0] = -5;
  router[1][1] = 1;
  mixture.set_router(router);
  at::Tensor x = at::ones({1, 4, kWidth});
  x[0][2][0] = x[0][3][0] = -1;
  const Moe::Route route = mixture.moe->route(x.reshape({-1, kWidth}));
  const auto sorted = std::get<0>(at::sort(route.experts, -1));
  EXPECT_TRUE(at::equal(sorted, at::tensor({1, 3, 1, 3, 1, 4, 1, 4}, at::kLong).reshape({4, 2})));
  mixture.expect_as_slow(x);
}

TEST(Moe, APassSendsTokensToTheExpertsThatAnotherOneChose) {
  for (const bool normalize : {false, true}) {
    Mixture mixture(2, normalize);
    const at::Tensor x = random({1, 6, kWidth}, 5), other = random({1, 6, kWidth}, 6);
    at::Tensor experts;
    const at::Tensor first = mixture.moe->forward(x, {.experts = &experts});
    EXPECT_TRUE(at::equal(first, mixture.moe->forward(x, {})));
    const at::Tensor chosen = mixture.moe->route(x.reshape({-1, kWidth})).experts;
    ASSERT_TRUE(at::equal(experts, chosen));
    ASSERT_FALSE(at::equal(mixture.moe->route(other.reshape({-1, kWidth})).experts, chosen));
    std::vector<at::Tensor> seen;  // by an expert
    core::Slot* gate = mixture.moe->slots_of(chosen[0][0].item<int64_t>()).front();
    gate->put(
        std::make_shared<core::RecordingLinear>(gate->pointer(), [&](const at::Tensor& y) { seen.push_back(y); }));
    mixture.moe->forward(other, {.experts = &experts});
    ASSERT_EQ(seen.size(), 1u);
    const at::Tensor rows = (chosen == chosen[0][0]).any(-1).nonzero().flatten();
    EXPECT_TRUE(at::equal(seen.front(), other.reshape({-1, kWidth}).index_select(0, rows)));
    EXPECT_TRUE(at::equal(experts, chosen)) << "the choice stays";
  }
}

TEST(Moe, AllTokensToOneExpertAndTiesInTheGate) {
  Mixture one(1);
  at::Tensor router = at::zeros({kExperts, kWidth});
  router[2][0] = 9;
  one.set_router(router);
  one.expect_as_slow(at::ones({2, 5, kWidth}));
  Mixture ties(2);
  ties.set_router(at::zeros({kExperts, kWidth}));
  const at::Tensor x = random({1, 6, kWidth}, 5);
  ties.expect_as_slow(x);
  const at::Tensor experts = ties.moe->route(x.reshape({-1, kWidth})).experts;
  EXPECT_TRUE((experts.select(1, 0) != experts.select(1, 1)).all().item<bool>()) << "a token counts once per expert";
}

TEST(Moe, APermutationOfTheExpertsChangesOnlyTheRounding) {
  Mixture mixture(2), permuted(2);
  const std::vector<int64_t> order{3, 0, 4, 1, 2};
  permuted.set_router(mixture.weight("mlp.gate").index_select(0, at::tensor(order, at::kLong)));
  for (core::Slot* slot : permuted.slots()) {
    for (int64_t e = 0; e < kExperts; ++e) {
      const std::string prefix = "mlp.experts." + std::to_string(e) + ".";
      if (!slot->path().starts_with(prefix)) continue;
      const std::string from = "mlp.experts." + std::to_string(order[e]) + "." + slot->path().substr(prefix.size());
      slot->put(std::make_shared<core::DenseLinear>(mixture.weight(from), at::Tensor(), 32));
    }
  }
  const at::Tensor x = random({2, 9, kWidth}, 3);
  const at::Tensor expected = mixture.moe->forward(x, {});
  EXPECT_LE(difference(permuted.moe->forward(x, {}), expected), 1e-6 * expected.abs().max().item<double>());
}

TEST(Moe, ShowsAllExpertsAllTokensAndKeepsItsOutputs) {
  Mixture mixture(2);
  const at::Tensor x = random({2, 9, kWidth}, 3), expected = mixture.moe->forward(x, {});
  std::map<std::string, int64_t> seen;
  for (core::Slot* slot : mixture.slots()) {
    slot->put(std::make_shared<core::RecordingLinear>(
        slot->pointer(), [&n = seen[slot->path()]](const at::Tensor& input) { n += input.numel() / input.size(-1); }));
  }
  mixture.moe->forward(x, {});
  int64_t routed = 0;
  for (int64_t e = 0; e < kExperts; ++e) routed += seen["mlp.experts." + std::to_string(e) + ".up_proj"];
  EXPECT_EQ(routed, 2 * 18);
  EXPECT_EQ(seen["mlp.shared_expert.down_proj"], 18);
  for (auto& [path, n] : seen) n = 0;
  EXPECT_LE(difference(mixture.moe->forward(x, {.all_experts = true}), expected), 1e-6);
  for (const auto& [path, n] : seen) EXPECT_EQ(n, 18) << path;
}

TEST(Moe, ATokenPaysForTheExpertsThatItIsSentTo) {
  Mixture mixture(2);
  core::Cost cost;
  for (core::Slot* slot : mixture.slots()) cost += slot->cost();
  const int64_t expert = 3 * kWidth * kFfn;
  EXPECT_NEAR(static_cast<double>(cost.macs), 2 * expert + 2 * expert + (kExperts + 1) * kWidth,
              15);  // rounded per linear
  EXPECT_EQ(cost.weights, kExperts * expert + 2 * expert + (kExperts + 1) * kWidth);
}

}  // namespace
}  // namespace models
