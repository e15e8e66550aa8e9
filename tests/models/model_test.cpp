// A model's own account of itself: groups, stored tensors, costs, loading and unloading.
#include "core/model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "models/registry.h"
#include "tests/models/support.h"

namespace {

using testing::ElementsAre;

std::vector<std::string> paths(const std::vector<core::Slot*>& slots) {
  std::vector<std::string> all;
  for (const core::Slot* slot : slots) all.push_back(slot->path());
  return all;
}

// Every token asks the embedding where it is. What it stores may have to be unpacked for that, and is left alone.
TEST(Model, AnEmbeddingKnowsItsDeviceWithoutItsState) {
  struct Unasked : core::DenseLinear {
    using DenseLinear::DenseLinear;
    std::vector<core::State> state() const override { throw std::logic_error("asked for its state"); }
  };
  core::Embedding embedding("embed", 6, 4);
  embedding.put(std::make_shared<Unasked>(at::zeros({6, 4}), at::Tensor(), 32));
  EXPECT_EQ(embedding.device(), at::Device(at::kCPU));
}

TEST(Model, BlocksListTheirLinearsInExecutionOrder) {
  const auto model = load_model(golden_directory("qwen3_tied"));
  const std::string p = "model.layers.1.";
  EXPECT_THAT(paths(model->block(1).slots()),
              ElementsAre(p + "self_attn.q_proj", p + "self_attn.k_proj", p + "self_attn.v_proj",
                          p + "self_attn.o_proj", p + "mlp.gate_proj", p + "mlp.up_proj", p + "mlp.down_proj"));
  EXPECT_EQ(model->slots().size(), 14u);
}

TEST(Model, EverySlotOfAGroupSeesTheSameInput) {
  const auto model = load_model(golden_directory("llama_biases"));
  std::map<const core::Slot*, at::Tensor> inputs;
  for (core::Slot* slot : model->slots()) {
    slot->put(std::make_shared<core::RecordingLinear>(slot->pointer(),
                                                      [&inputs, slot](const at::Tensor& x) { inputs[slot] = x; }));
  }
  at::NoGradGuard no_gradient;
  model->forward(expected_of("llama_biases", "ids"));
  for (const core::LinearGroup& group : model->block(1).groups()) {
    for (const core::Slot* slot : group.slots) EXPECT_TRUE(at::equal(inputs.at(slot), inputs.at(group.slots.front())));
  }
}

TEST(Model, ProducersMakeTheInputsOfTheirGroups) {
  // Scaling channel c of a producer scales exactly the input channels that the group's description says.
  at::NoGradGuard no_gradient;
  const auto model = load_model(golden_directory("qwen2"));  // 4 heads, 2 key/value heads of 6
  core::Block& block = model->block(0);
  const std::vector<core::LinearGroup> groups = block.groups();
  ASSERT_EQ(groups.size(), 4u);
  EXPECT_EQ(groups[0].producer.norm->path(), "model.layers.0.input_layernorm");
  EXPECT_EQ(groups[2].producer.norm->path(), "model.layers.0.post_attention_layernorm");
  EXPECT_EQ(groups[1].producer.slot->path(), "model.layers.0.self_attn.v_proj");
  EXPECT_EQ(groups[1].producer.heads_per_kv, 2);
  EXPECT_EQ(groups[1].producer.head_width, 6);
  EXPECT_EQ(groups[3].producer.slot->path(), "model.layers.0.mlp.up_proj");

  const at::Tensor ids = expected_of("qwen2", "ids");
  at::Tensor seen;
  core::Slot& consumer = *groups[1].slots[0];
  consumer.put(
      std::make_shared<core::RecordingLinear>(consumer.pointer(), [&](const at::Tensor& x) { seen = x.clone(); }));
  model->forward(ids);
  const at::Tensor before = seen;
  core::Slot& producer = *groups[1].producer.slot;
  const int64_t channel = 7;  // kv head 1, place 1: the query heads 2 and 3
  at::Tensor weight = producer.linear().weight().clone(), bias = producer.linear().bias().clone();
  weight[channel].mul_(2);
  bias[channel].mul_(2);
  producer.put(std::make_shared<core::DenseLinear>(weight, bias, 32));
  model->forward(ids);
  const at::Tensor ratio = (seen / before).mean(at::IntArrayRef{0, 1});  // [H · C]
  for (int64_t i = 0; i < 24; ++i) {
    const bool mine = i == 2 * 6 + 1 || i == 3 * 6 + 1;
    EXPECT_NEAR(ratio[i].item<double>(), mine ? 2.0 : 1.0, 1e-5) << "input channel " << i;
  }
}

TEST(Model, ParentsComputeWhatTheBlockComputes) {
  at::NoGradGuard no_gradient;
  const auto model = load_model(golden_directory("qwen3_sharded"));
  core::Block& block = model->block(0);
  const std::vector<core::LinearGroup> groups = block.groups();
  const at::Tensor x = model->embed(expected_of("qwen3_sharded", "ids"));
  const at::Tensor h = x + groups[0].parent(groups[0].producer.norm->forward(x));
  const at::Tensor y = h + groups[2].parent(groups[2].producer.norm->forward(h));
  EXPECT_TRUE(at::equal(y, block.forward(x, core::Pass{})));
  EXPECT_FALSE(groups[1].parent) << "o_proj is judged by its own output";
  EXPECT_FALSE(groups[3].parent) << "down_proj is judged by its own output";
}

TEST(Model, NamedStateHasEveryTensorOfTheFileOnce) {
  for (const std::string& name : golden_names()) {
    const auto model = load_model(golden_directory(name));
    std::vector<std::string> names;
    for (const core::State& state : core::named_state(*model)) names.push_back(state.name);
    const auto checkpoint = core::Checkpoint::open(golden_directory(name));
    EXPECT_THAT(names, testing::UnorderedElementsAreArray(checkpoint.names())) << name;
  }
}

TEST(Model, BillCountsATiedEmbeddingOnce) {
  for (const std::string& name : golden_names()) {
    const auto model = load_model(golden_directory(name));
    const core::Cost cost = core::bill(*model);
    const auto checkpoint = core::Checkpoint::open(golden_directory(name));
    EXPECT_EQ(cost.dense_bits, static_cast<int64_t>(checkpoint.total_bytes()) * 8) << name;
    EXPECT_EQ(cost.code_bits + cost.parameter_bits, 0);
    int64_t macs = model->shape().vocabulary * model->shape().width;
    for (const core::Slot* slot : model->slots())
      macs += std::llround(slot->token_fraction() * static_cast<double>(slot->out_features() * slot->in_features()));
    EXPECT_EQ(cost.macs, macs) << name;
  }
}

TEST(Model, BytesReadAreAllButTheUnusedRowsOfTheEmbedding) {
  const auto untied = load_model(golden_directory("qwen2"));  // float16, vocabulary 48, width 24
  const auto file = core::Checkpoint::open(golden_directory("qwen2"));
  EXPECT_EQ(core::bill(*untied).bytes_read, static_cast<int64_t>(file.total_bytes()) - 47 * 24 * 2);
  const auto tied = load_model(golden_directory("qwen2_yarn"));
  const auto tied_file = core::Checkpoint::open(golden_directory("qwen2_yarn"));
  EXPECT_EQ(core::bill(*tied).bytes_read,
            static_cast<int64_t>(tied_file.total_bytes()) + 24 * 2);  // a row, then all rows
}

TEST(Model, ABlockThatAPlanRunsTwiceIsStoredOnceAndReadTwice) {
  const auto model = load_model(golden_directory("qwen2"));
  const core::Cost once = core::bill(*model);
  model->follow({{.block = 0}, {.block = 1}, {.block = 1}});
  const core::Cost twice = core::bill(*model);
  int64_t macs = 0;
  for (const core::Slot* slot : model->block(1).slots()) macs += slot->linear().cost().macs;
  EXPECT_EQ(twice.dense_bits, once.dense_bits);
  EXPECT_EQ(twice.weights, once.weights);
  EXPECT_EQ(twice.macs, once.macs + macs);
}

TEST(Model, PlanOfEveryLayerIsBitIdenticalToTheBlocksInTurn) {
  at::NoGradGuard no_gradient;
  const auto model = load_model(golden_directory("llama_llama3"));
  const at::Tensor ids = expected_of("llama_llama3", "ids");
  at::Tensor hidden = model->embed(ids);
  for (int64_t i = 0; i < model->shape().layers; ++i) hidden = model->block(i).forward(hidden, core::Pass{});
  EXPECT_TRUE(at::equal(model->forward(ids), model->logits(hidden)));
}

TEST(Model, ARepeatedBlockHasItsOwnCachePerStep) {
  at::NoGradGuard no_gradient;
  const auto model = load_model(golden_directory("qwen2"));
  model->follow({{.block = 0}, {.block = 1}, {.block = 0}});
  const at::Tensor ids = expected_of("qwen2", "ids");
  const at::Tensor full = model->forward(ids);
  core::KvCache cache(3, 16);
  const at::Tensor first = model->forward(ids.narrow(1, 0, 9), &cache);
  const at::Tensor rest = model->forward(ids.narrow(1, 9, 7), &cache);
  EXPECT_LE(difference(at::cat({first, rest}, 1), full), 1e-5 * std::max(1.0, full.abs().max().item<double>()));
}

TEST(Model, UnloadedHoldsNothingAndLoadsAgainToTheSameBits) {
  at::NoGradGuard no_gradient;
  const std::string directory = golden_directory("qwen3_tied");
  const auto model = load_model(directory);
  const at::Tensor ids = expected_of("qwen3_tied", "ids");
  const at::Tensor before = model->forward(ids);
  core::unload(*model);
  EXPECT_TRUE(core::named_state(*model).empty());
  EXPECT_TRUE(model->parameters().empty() || !model->parameters().front().defined());
  EXPECT_THROW(model->forward(ids), c10::Error);
  const auto checkpoint = std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory));
  core::load(*model, core::Weights(checkpoint, at::kFloat, at::kCPU));
  EXPECT_TRUE(at::equal(model->forward(ids), before));
}

TEST(Model, RunsInBfloat16) {
  at::NoGradGuard no_gradient;
  const std::string directory = golden_directory("qwen3_tied");
  const auto checkpoint = std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory));
  const auto model = models::build(core::read_hf_config(directory));
  core::load(*model, core::Weights(checkpoint, at::kBFloat16, at::kCPU));
  const at::Tensor logits = model->forward(expected_of("qwen3_tied", "ids"));
  EXPECT_EQ(logits.scalar_type(), at::kBFloat16);
  const at::Tensor expected = expected_of("qwen3_tied", "logits");
  // 8 bits of mantissa, a dozen roundings on the way: 2^-8 · sqrt(12) · 3 of the spread of the logits.
  EXPECT_LE(difference(logits, expected), 0x1p-8 * 3.5 * 3 * expected.abs().max().item<double>());
}

}  // namespace
