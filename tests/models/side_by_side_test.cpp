// Replicas that run side by side, linear by linear, against one after the other: the same numbers, from linears that
// are asked together.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/models/support.h"

namespace {

// A dense linear that can be asked together with others of its kind, and counts how often it is.
class Joining : public core::Linear {
 public:
  struct Counts {
    int64_t alone = 0, together = 0;
  };
  Joining(at::Tensor weight, at::Tensor bias, std::shared_ptr<Counts> counts)
      : Linear(weight.size(0), weight.size(1)), weight_(std::move(weight)), bias_(std::move(bias)), counts_(counts) {}

  at::Tensor forward(const at::Tensor& x) override {
    ++counts_->alone;
    return at::linear(x, weight_, bias_);
  }
  at::Tensor forward_beside(const std::vector<core::Linear*>& all, const at::Tensor& x) override {
    ++counts_->together;
    EXPECT_EQ(this, all.front());
    std::vector<at::Tensor> outputs;
    for (size_t r = 0; r < all.size(); ++r) {
      const at::Tensor one = x[x.size(0) == 1 ? 0 : static_cast<int64_t>(r)];
      outputs.push_back(at::linear(one, all[r]->weight(), all[r]->bias()));
    }
    return at::stack(outputs);
  }
  bool reads_once_beside(const core::Linear& other) const override {
    return dynamic_cast<const Joining*>(&other) != nullptr;
  }
  at::Tensor weight() const override { return weight_; }
  at::Tensor bias() const override { return bias_; }
  std::vector<core::State> state() const override { return {}; }
  core::Cost cost() const override { return {}; }

 private:
  at::Tensor weight_, bias_;
  std::shared_ptr<Counts> counts_;
};

class SideBySide : public ::testing::TestWithParam<std::string> {
 protected:
  // Every linear of block 1 and of its two replicas has a weight of its own; `joins`: they can be asked together.
  void fill(bool joins) {
    *counts_ = {};
    at::manual_seed(1);
    for (int64_t r = 0; r < 3; ++r) {
      const std::vector<core::Slot*> from = model_->block(1).slots(), to = model_->block(1, r).slots();
      for (size_t i = 0; i < from.size(); ++i) {
        const at::Tensor& weight = originals_[i];
        const at::Tensor own = weight + 0.05 * at::randn_like(weight) * weight.std();
        const at::Tensor bias = from[i]->linear().bias();
        if (joins) {
          to[i]->put(std::make_shared<Joining>(own, bias, counts_));
        } else {
          to[i]->put(std::make_shared<core::DenseLinear>(own, bias, 32));
        }
      }
    }
    model_->block(1, 2).attention_gate().put(0.5);
    model_->block(1, 1).mlp_gate().put(2);
  }
  at::Tensor decoded(const at::Tensor& ids) {
    core::KvCache cache(static_cast<int64_t>(model_->plan().size()), ids.size(1));
    std::vector<at::Tensor> parts{model_->forward(ids.narrow(1, 0, 5), &cache)};
    for (int64_t t = 5; t < ids.size(1); ++t) parts.push_back(model_->forward(ids.narrow(1, t, 1), &cache));
    return at::cat(parts, 1);
  }
  // Through a block that attends to the keys of the replicas, too.
  void SetUp() override {
    model_->follow({{.block = 0}, {.block = 1, .parallel = 3}, {.block = 1, .replica = 1, .kv = 1}});
    for (const core::Slot* slot : model_->block(1).slots()) originals_.push_back(slot->linear().weight().clone());
  }
  bool has_experts() const {
    const std::vector<core::Slot*> slots = model_->block(1).slots();
    return std::any_of(slots.begin(), slots.end(),
                       [](const core::Slot* slot) { return slot->path().find(".mlp.experts.") != std::string::npos; });
  }

  at::NoGradGuard no_gradient_;
  std::shared_ptr<core::Model> model_ = load_model(golden_directory(GetParam()));
  std::vector<at::Tensor> originals_;
  std::shared_ptr<Joining::Counts> counts_ = std::make_shared<Joining::Counts>();
};

INSTANTIATE_TEST_SUITE_P(Golden, SideBySide, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST_P(SideBySide, LinearByLinearIsOneAfterTheOther) {
  const at::Tensor ids = expected_of(GetParam(), "ids");
  const at::Tensor two = at::cat({ids, (ids + 1).remainder(model_->shape().vocabulary)});
  for (const at::Tensor& batch : {ids, two}) {
    fill(/*joins=*/false);
    const at::Tensor expected = model_->forward(batch), in_steps = decoded(batch);
    fill(/*joins=*/true);
    const double scale = expected.abs().max().item<double>();
    EXPECT_LE(difference(model_->forward(batch), expected), 1e-5 * scale);
    EXPECT_LE(difference(decoded(batch), in_steps), 1e-5 * scale);
  }
}

TEST_P(SideBySide, EveryLinearIsAskedOnce) {
  fill(/*joins=*/true);
  const at::Tensor x = model_->embed(expected_of(GetParam(), "ids"));
  model_->run(model_->plan()[1], x, {.step = 1});
  int64_t keys = 0, slots = 0;  // of attention; in a mixture the experts run in turn
  for (const core::Slot* slot : model_->block(1).slots()) {
    if (has_experts() && slot->path().find(".mlp.") != std::string::npos) continue;
    ++slots;
    keys += core::makes_keys(slot->role()) ? 1 : 0;
  }
  EXPECT_EQ(counts_->together, slots - keys);
  if (!has_experts()) {
    EXPECT_EQ(counts_->alone, keys) << "keys and values are those of the first";
  }
}

TEST_P(SideBySide, NormsOfTheirOwnAreRespected) {
  const at::Tensor ids = expected_of(GetParam(), "ids");
  const auto scale_norm = [&] {
    for (const auto& module : model_->block(1, 1).modules(/*include_self=*/false)) {
      auto* norm = dynamic_cast<core::RmsNorm*>(module.get());
      if (norm == nullptr) continue;
      norm->own();
      return norm->divide(at::full_like(norm->weight(), 0.5));
    }
  };
  scale_norm();
  fill(/*joins=*/false);
  const at::Tensor expected = model_->forward(ids);
  fill(/*joins=*/true);
  EXPECT_TRUE(at::equal(model_->forward(ids), expected));
  EXPECT_EQ(counts_->together, 0);
}

}  // namespace
