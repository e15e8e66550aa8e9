// Blocks that a plan runs several times: what replicas share with their block, behind gates, in a row and side by side.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>

#include "core/io/safetensors.h"
#include "core/walk.h"
#include "tests/models/support.h"

namespace {

using core::Plan;
using core::Step;

double magnitude(const at::Tensor& x) { return std::max(1.0, x.abs().max().item<double>()); }

void close_gates(core::Model& model, double value = 0) {
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (core::Block* replica : model.replicas(i)) {
      replica->attention_gate().put(value);
      replica->mlp_gate().put(value);
    }
  }
}

class Replicas : public ::testing::TestWithParam<std::string> {
 protected:
  at::NoGradGuard no_gradient_;
  std::string name_ = GetParam();
  std::shared_ptr<core::Model> model_ = load_model(golden_directory(name_));
  at::Tensor ids_ = expected_of(name_, "ids");
};

INSTANTIATE_TEST_SUITE_P(Golden, Replicas, ::testing::ValuesIn(golden_names()),
                         [](const auto& info) { return info.param; });

TEST_P(Replicas, BehindClosedGatesAreBitIdenticalToNone) {
  const at::Tensor expected = model_->forward(ids_);
  for (const Plan& plan : {Plan{{.block = 0}, {.block = 0, .replica = 1, .kv = 0}, {.block = 1}},
                           Plan{{.block = 0}, {.block = 1}, {.block = 0, .replica = 1}, {.block = 1, .replica = 1}}}) {
    model_->follow(plan);
    EXPECT_FALSE(at::equal(model_->forward(ids_), expected)) << "open gates";
    close_gates(*model_);
    EXPECT_TRUE(at::equal(model_->forward(ids_), expected));
    model_->follow(core::default_plan(2));
    EXPECT_TRUE(at::equal(model_->forward(ids_), expected));
  }
}

TEST_P(Replicas, AGateScalesWhatItsHalfAdds) {
  model_->follow({{.block = 0, .replica = 1}});
  core::Block& replica = model_->block(0, 1);
  const at::Tensor x = model_->embed(ids_);
  replica.attention_gate().put(0.5);
  replica.mlp_gate().put(-2);
  const at::Tensor h = x + 0.5 * model_->block(0).attention(x, {});
  EXPECT_LE(difference(replica.forward(x, {}), h - 2 * model_->block(0).mlp(h, {})), 1e-6 * magnitude(h));
}

// The linear of a slot; keeps what it gave out first, and gives that out ever after if it is told to.
class Recorder : public core::Linear {
 public:
  explicit Recorder(const core::Slot& slot)
      : Linear(slot.out_features(), slot.in_features()), original_(slot.pointer()) {}
  at::Tensor forward(const at::Tensor& x) override {
    if (output_.defined() && repeats) return output_.clone();
    at::Tensor y = original_->forward(x);
    if (!output_.defined()) output_ = y.clone();  // keys are rotated where they lie
    return y;
  }
  at::Tensor weight() const override { return original_->weight(); }
  at::Tensor bias() const override { return original_->bias(); }
  std::vector<core::State> state() const override { return {}; }
  core::Cost cost() const override { return original_->cost(); }

  bool repeats = false;

 private:
  std::shared_ptr<core::Linear> original_;
  at::Tensor output_;
};

std::vector<core::Slot*> key_slots(core::Block& block) {
  std::vector<core::Slot*> slots = block.slots();
  std::erase_if(slots, [](const core::Slot* slot) { return !core::makes_keys(slot->role()); });
  return slots;
}

TEST_P(Replicas, SharedKeysAndValuesAreThoseOfTheEarlierStep) {
  const Plan shared{{.block = 0}, {.block = 1}, {.block = 0, .replica = 1, .kv = 0}};
  model_->follow(shared);
  const at::Tensor result = model_->forward(ids_);
  // The same with keys and values of its own, which are made to be those of the first step.
  model_->follow({{.block = 0}, {.block = 1}, {.block = 0, .replica = 1}});
  std::vector<std::shared_ptr<Recorder>> recorders;
  for (core::Slot* slot : key_slots(model_->block(0)))
    slot->put(recorders.emplace_back(std::make_shared<Recorder>(*slot)));
  ASSERT_GE(recorders.size(), 2u);
  EXPECT_FALSE(at::equal(model_->forward(ids_), result));
  for (const auto& recorder : recorders) recorder->repeats = true;
  EXPECT_LE(difference(model_->forward(ids_), result), 1e-6 * magnitude(result));
}

TEST_P(Replicas, DecodeWithACacheAsInOnePass) {
  for (const Plan& plan :
       {Plan{{.block = 0}, {.block = 0, .replica = 1, .kv = 0}, {.block = 1, .parallel = 2}},
        Plan{{.block = 0, .parallel = 3}, {.block = 1}, {.block = 0, .replica = 3, .kv = 0}, {.block = 1, .kv = 1}}}) {
    model_->follow(plan);
    close_gates(*model_, 0.7);
    const at::Tensor full = model_->forward(ids_);
    core::KvCache cache(static_cast<int64_t>(plan.size()), ids_.size(1));
    std::vector<at::Tensor> parts;
    for (int64_t t = 0; t < ids_.size(1); t += 4)
      parts.push_back(model_->forward(ids_.slice(1, t, std::min(t + 4, ids_.size(1))), &cache));
    EXPECT_LE(difference(at::cat(parts, 1), full), 1e-5 * magnitude(full));
  }
}

TEST_P(Replicas, SideBySideTheMeanOfWhatEachHalfAddsIsAdded) {
  const at::Tensor alone = model_->forward(ids_);
  model_->follow({{.block = 0, .parallel = 3}, {.block = 1}});
  EXPECT_LE(difference(model_->forward(ids_), alone), 1e-6 * magnitude(alone)) << "equal replicas";
  model_->block(0, 1).attention_gate().put(4);  // 1, 4 and 1: twice what one adds
  model_->block(0, 2).mlp_gate().put(-2);       // 1, 1 and -2: nothing
  const at::Tensor x = model_->embed(ids_);
  const at::Tensor expected = x + 2 * model_->block(0).attention(x, {});
  EXPECT_LE(difference(model_->run(model_->plan()[0], x, {}), expected), 1e-5 * magnitude(expected));
}

TEST_P(Replicas, AWalkCarriesSharedKeysOfEveryBatch) {
  model_->follow(
      {{.block = 0}, {.block = 1, .parallel = 2}, {.block = 0, .replica = 1, .kv = 0}, {.block = 1, .kv = 1}});
  close_gates(*model_, 0.5);
  core::HiddenStore hidden(3);
  std::vector<at::Tensor> expected;
  for (int64_t i = 0; i < 3; ++i) {
    const at::Tensor ids = (ids_ + i).remainder(model_->shape().vocabulary);
    hidden.put(i, model_->embed(ids));
    expected.push_back(model_->forward(ids));
  }
  const auto checkpoint = std::make_shared<core::Checkpoint>(core::Checkpoint::open(golden_directory(name_)));
  core::StreamedSource source(core::Weights(checkpoint, at::kFloat, at::kCPU));
  core::walk(*model_, source, {}, {.quantized = &hidden});
  for (int64_t i = 0; i < 3; ++i) EXPECT_TRUE(at::equal(model_->logits(hidden.get(i)), expected[i])) << "batch " << i;
}

TEST_P(Replicas, UseWhatTheirBlockHoldsAtTheTime) {
  model_->follow({{.block = 0}, {.block = 0, .replica = 1}});
  core::Slot &slot = *model_->block(0).slots().front(), &copy = *model_->block(0, 1).slots().front();
  EXPECT_EQ(copy.pointer(), slot.pointer());
  EXPECT_FALSE(copy.filled());
  const auto other = std::make_shared<core::DenseLinear>(slot.linear().weight() * 2, slot.linear().bias(), 32);
  slot.put(other);
  EXPECT_EQ(copy.pointer(), other);
  core::unload(model_->block(0));
  EXPECT_EQ(copy.pointer(), nullptr);
}

TEST_P(Replicas, AreStoredNowhereTwice) {
  const core::Cost once = core::bill(*model_);
  const size_t tensors = core::named_state(*model_).size();
  model_->follow({{.block = 0}, {.block = 1}, {.block = 0, .replica = 1}, {.block = 1, .replica = 1}});
  core::Cost twice = core::bill(*model_);
  EXPECT_EQ(core::named_state(*model_).size(), tensors);
  EXPECT_EQ(twice.dense_bits, once.dense_bits);
  EXPECT_EQ(twice.weights, once.weights);
  EXPECT_EQ(twice.parameter_bits, 0);
  const int64_t head = model_->shape().vocabulary * model_->shape().width;
  EXPECT_EQ(twice.macs - head, 2 * (once.macs - head));
  close_gates(*model_);
  EXPECT_EQ(core::bill(*model_).parameter_bits, 4 * 32);
  EXPECT_EQ(core::named_state(*model_).size(), tensors + 4);
}

TEST_P(Replicas, PayForKeysAndForReadingOnlyWhereTheyMust) {
  const auto of_block = [&](int64_t cache_bytes) { return core::bill_of_block(*model_, 0, cache_bytes); };
  const core::Cost one = of_block(0);
  int64_t keys = 0;
  for (const core::Slot* slot : key_slots(model_->block(0))) keys += slot->linear().cost().macs;
  model_->follow({{.block = 0}, {.block = 0, .replica = 1, .kv = 0}});
  EXPECT_EQ(of_block(0).macs, 2 * one.macs - keys);
  EXPECT_EQ(of_block(one.bytes_read).bytes_read, one.bytes_read) << "it is still in the cache";
  EXPECT_GT(of_block(one.bytes_read - 1).bytes_read, one.bytes_read);
  model_->follow({{.block = 0}, {.block = 1}, {.block = 0, .replica = 1}});
  EXPECT_EQ(of_block(2 * one.bytes_read - 1).bytes_read, 2 * one.bytes_read) << "another block lies between";
  EXPECT_EQ(of_block(2 * one.bytes_read).bytes_read, one.bytes_read);
  model_->follow({{.block = 0, .parallel = 2}});
  EXPECT_EQ(of_block(0).bytes_read, one.bytes_read) << "side by side the codes are read once";
  EXPECT_EQ(of_block(0).macs, 2 * one.macs - keys);
}

}  // namespace
