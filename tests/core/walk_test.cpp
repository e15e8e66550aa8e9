// The walk: in which order it loads, shows and changes blocks, and what the two hidden streams carry.
#include "core/walk.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <limits>
#include <map>

#include "tests/support/toy_model.h"

namespace core {
namespace {

using ::testing::ElementsAre;

// Halves the weights of a block's first linear, as a stand-in for quantization, and keeps the inputs that it was shown.
class Halve : public Stage {
 public:
  std::string name() const override { return "halve"; }
  int version() const override { return 1; }
  void block(BlockContext& context) override {
    steps.push_back(context.step);
    if (context.inputs.full != nullptr) full.push_back(context.inputs.full->get(0));
    if (context.inputs.quantized != nullptr) quantized.push_back(context.inputs.quantized->get(0));
    Slot& slot = *context.block.slots().front();
    slot.put(std::make_shared<DenseLinear>(slot.linear().weight() / 2, slot.linear().bias(), 32));
  }
  std::vector<int64_t> steps;
  std::vector<at::Tensor> full, quantized;
};

// The inputs of each block, then the last output, in one dense pass.
std::vector<at::Tensor> hidden_states(Model& model, at::Tensor hidden) {
  std::vector<at::Tensor> all{hidden};
  for (int64_t i = 0; i < model.shape().layers; ++i) all.push_back(hidden = model.block(i).forward(hidden, {}));
  return all;
}

HiddenStore stored(Model& model, int64_t batches) {
  HiddenStore hidden(batches);
  for (int64_t i = 0; i < batches; ++i) hidden.put(i, model.embed((toy::ids() + i).remainder(toy::kVocabulary)));
  return hidden;
}

TEST(Walk, ShowsAStageTheInputsAsTheFinishedBlocksComputeThem) {
  toy::Toy toy, dense;
  dense.load_blocks();
  HiddenStore full = stored(*toy.model, 1), quantized = stored(*toy.model, 1);
  const at::Tensor embedded = full.get(0);
  Halve halve;
  toy.walk({&halve}, {&full, &quantized});
  const auto as_dense = hidden_states(*dense.model, embedded), as_halved = hidden_states(*toy.model, embedded);
  ASSERT_EQ(halve.full.size(), toy::kLayers);
  for (int64_t i = 0; i < toy::kLayers; ++i) {
    EXPECT_TRUE(at::equal(halve.full[i], as_dense[i])) << "block " << i;
    EXPECT_TRUE(at::equal(halve.quantized[i], as_halved[i])) << "block " << i;
  }
  EXPECT_FALSE(at::equal(halve.full[1], halve.quantized[1]));
  EXPECT_TRUE(at::equal(full.get(0), as_dense.back()));
  EXPECT_TRUE(at::equal(quantized.get(0), as_halved.back()));
}

TEST(Walk, CarriesEveryBatch) {
  toy::Toy toy, dense;
  dense.load_blocks();
  HiddenStore full = stored(*toy.model, 3);
  const HiddenStore inputs = stored(*toy.model, 3);
  toy.walk({}, {&full, nullptr});
  for (int64_t i = 0; i < 3; ++i)
    EXPECT_TRUE(at::equal(full.get(i), hidden_states(*dense.model, inputs.get(i)).back()));
}

// Counts what it sees.
class Counts : public Stage {
 public:
  std::string name() const override { return "counts"; }
  int version() const override { return 1; }
  void block(BlockContext& context) override {
    calibration = {context.inputs.full->batches(), context.inputs.quantized->batches()};
    all = {context.all->full->batches(), context.all->quantized->batches(), context.all->held_out};
    outputs.push_back(context.full_outputs->get(2));
  }
  std::vector<int64_t> calibration, all;
  std::vector<at::Tensor> outputs;
};

TEST(Walk, CarriesHeldOutBatchesThatCalibrationDoesNotSee) {
  toy::Toy toy, dense;
  dense.load_blocks();
  HiddenStore full = stored(*toy.model, 3), quantized = stored(*toy.model, 3);
  const at::Tensor last = full.get(2);
  Counts counts;
  Halve halve;
  toy.walk({&counts, &halve}, {&full, &quantized, /*held_out=*/1});
  EXPECT_THAT(counts.calibration, ElementsAre(2, 2));
  EXPECT_THAT(counts.all, ElementsAre(3, 3, 1));
  const auto wanted = hidden_states(*dense.model, last), halved = hidden_states(*toy.model, last);
  for (int64_t i = 0; i < toy::kLayers; ++i)
    EXPECT_TRUE(at::equal(counts.outputs[i], wanted[i + 1])) << "of the full-precision block " << i;
  EXPECT_TRUE(at::equal(full.get(2), wanted.back()));
  EXPECT_TRUE(at::equal(quantized.get(2), halved.back()));
}

TEST(Walk, OneStreamDoesNotDependOnTheOther) {
  toy::Toy both, alone;
  HiddenStore full = stored(*both.model, 1), quantized = stored(*both.model, 1), single = stored(*alone.model, 1);
  Halve a, b;
  both.walk({&a}, {&full, &quantized});
  alone.walk({&b}, {nullptr, &single});
  EXPECT_TRUE(at::equal(single.get(0), quantized.get(0)));
  EXPECT_TRUE(b.full.empty());
}

TEST(Walk, WithoutStagesGivesTheModelsOwnLogitsBitForBit) {
  toy::Toy toy;
  HiddenStore hidden = stored(*toy.model, 1);
  toy.walk({}, {nullptr, &hidden});
  EXPECT_TRUE(at::equal(toy.model->logits(hidden.get(0)), toy.model->forward(toy::ids())));
}

// Writes down what happens.
class Log : public Stage {
 public:
  Log(std::string name, std::vector<std::string>& lines) : name_(std::move(name)), lines_(lines) {}
  std::string name() const override { return name_; }
  int version() const override { return 1; }
  void begin(Model&) override { lines_.push_back(name_ + " begin"); }
  void block(BlockContext& context) override { lines_.push_back(name_ + " " + std::to_string(context.index)); }
  void end(Model&) override { lines_.push_back(name_ + " end"); }

 private:
  std::string name_;
  std::vector<std::string>& lines_;
};

class LoggingSource : public BlockSource {
 public:
  LoggingSource(BlockSource& inner, std::vector<std::string>& lines) : inner_(inner), lines_(lines) {}
  void load(Model& model, int64_t block) override {
    lines_.push_back("load " + std::to_string(block));
    inner_.load(model, block);
  }
  void release(Model& model, int64_t block) override {
    lines_.push_back("release " + std::to_string(block));
    inner_.release(model, block);
  }

 private:
  BlockSource& inner_;
  std::vector<std::string>& lines_;
};

TEST(Walk, FinishesABlockWithAllStagesBeforeTheNextBlock) {
  toy::Toy toy;
  toy.model->follow(default_plan(2));
  std::vector<std::string> lines;
  Log one("a", lines), two("b", lines);
  LoggingSource source(*toy.source, lines);
  walk(*toy.model, source, {&one, &two}, {});
  EXPECT_THAT(lines, ElementsAre("a begin", "b begin", "load 0", "a 0", "b 0", "release 0", "load 1", "a 1", "b 1",
                                 "release 1", "a end", "b end"));
}

TEST(Walk, WorksOnABlockOnlyAtItsFirstStepAndTellsTheProgress) {
  toy::Toy toy;
  toy.model->follow({{.block = 1}, {.block = 0}, {.block = 1}, {.block = 2}});
  HiddenStore hidden = stored(*toy.model, 1);
  const at::Tensor embedded = hidden.get(0);
  Halve halve;
  std::vector<std::string> progress;
  walk(*toy.model, *toy.source, {&halve}, {nullptr, &hidden},
       [&](int64_t done, int64_t total) { progress.push_back(std::to_string(done) + "/" + std::to_string(total)); });
  EXPECT_THAT(halve.steps, ElementsAre(0, 1, 3));
  EXPECT_THAT(progress, ElementsAre("1/4", "2/4", "3/4", "4/4"));
  at::Tensor expected = embedded;
  for (const int64_t block : {1, 0, 1, 2}) expected = toy.model->block(block).forward(expected, {});
  EXPECT_TRUE(at::equal(hidden.get(0), expected));
}

TEST(Plan, RunsEveryBlockOnceInOrderByDefault) {
  const auto model = toy::skeleton();
  ASSERT_EQ(model->plan().size(), toy::kLayers);
  for (int64_t i = 0; i < toy::kLayers; ++i) {
    EXPECT_EQ(model->plan()[i].block, i);
    EXPECT_EQ(model->plan()[i].replica, 0);
    EXPECT_EQ(model->plan()[i].kv, Step::kOwn);
  }
}

TEST(ResidentSource, LoadsABlockOnceAndKeepsIt) {
  toy::Toy toy;
  toy.source->load(*toy.model, 1);
  const auto first = toy.slot(2).pointer();
  toy.source->release(*toy.model, 1);
  toy.source->load(*toy.model, 1);
  EXPECT_EQ(toy.slot(2).pointer(), first);
  EXPECT_FALSE(toy.slot(0).filled());
}

// ---- streaming ----

TEST(StreamedSource, DropsABlockWhenTheWalkLeavesItAndChangesNoBit) {
  toy::Toy toy, resident;
  StreamedSource source(*toy.weights);
  HiddenStore hidden = stored(*toy.model, 2), expected = stored(*resident.model, 2);
  walk(*toy.model, source, {}, {nullptr, &hidden});
  resident.walk({}, {nullptr, &expected});
  for (int64_t i = 0; i < 2; ++i) EXPECT_TRUE(at::equal(hidden.get(i), expected.get(i))) << "batch " << i;
  for (Slot* slot : toy.model->slots()) EXPECT_FALSE(slot->filled()) << slot->path();
  EXPECT_EQ(named_state(*toy.model).size(), 2) << "more than embedding and norm";
  toy.model->follow({{.block = 2}, {.block = 2}});
  walk(*toy.model, source, {}, {nullptr, &hidden});
  EXPECT_FALSE(toy.slot(4).filled());
}

TEST(StreamedSource, WithSpilledHiddenStatesChangesNoBit) {
  const Scratch scratch;
  toy::Toy toy, resident;
  StreamedSource source(*toy.weights);
  HiddenStore expected_full = stored(*resident.model, 3), expected = stored(*resident.model, 3);
  Halve a, b;
  resident.walk({&a}, {&expected_full, &expected});
  limit_hidden_states(hidden_bytes_in_memory() + 2 * 2 * 5 * toy::kWidth * 4, scratch.path());  // two batches of six
  {
    HiddenStore full = stored(*toy.model, 3), quantized = stored(*toy.model, 3);
    EXPECT_EQ(full.spilled() + quantized.spilled(), 4);
    walk(*toy.model, source, {&b}, {&full, &quantized});
    for (int64_t i = 0; i < 3; ++i) {
      EXPECT_TRUE(at::equal(full.get(i), expected_full.get(i))) << "batch " << i;
      EXPECT_TRUE(at::equal(quantized.get(i), expected.get(i))) << "batch " << i;
    }
  }
  limit_hidden_states(std::numeric_limits<int64_t>::max(), "");
}

// Keeps what the stages made of each block in memory, as a checkpoint does on disk.
class KeepingSource : public StreamedSource {
 public:
  using StreamedSource::StreamedSource;
  void load(Model& model, int64_t block) override {
    loads.push_back(block);
    StreamedSource::load(model, block);
  }
  bool finished(int64_t block) const override { return kept.contains(block); }
  void load_finished(Model& model, int64_t block) override {
    StreamedSource::load(model, block);
    model.block(block).slots().front()->put(kept.at(block));
  }
  std::map<int64_t, std::shared_ptr<Linear>> kept;
  std::vector<int64_t> loads;
};

class Keep : public Stage {
 public:
  explicit Keep(KeepingSource& source) : source_(source) {}
  std::string name() const override { return "keep"; }
  int version() const override { return 1; }
  void block(BlockContext& context) override { source_.kept[context.index] = context.block.slots().front()->pointer(); }

 private:
  KeepingSource& source_;
};

TEST(Walk, GoesOnBehindFinishedBlocksWithTheSameStreams) {
  toy::Toy toy, again;
  KeepingSource source(*toy.weights);
  Halve first, second;
  Keep keep(source);
  HiddenStore full = stored(*toy.model, 1), quantized = stored(*toy.model, 1);
  walk(*toy.model, source, {&first, &keep}, {&full, &quantized});
  source.kept.erase(2);  // as if it had been stopped there
  HiddenStore full_again = stored(*again.model, 1), quantized_again = stored(*again.model, 1);
  walk(*again.model, source, {&second, &keep}, {&full_again, &quantized_again});
  EXPECT_THAT(second.steps, ElementsAre(2));
  EXPECT_TRUE(at::equal(second.full.at(0), first.full.at(2)));
  EXPECT_TRUE(at::equal(second.quantized.at(0), first.quantized.at(2)));
  EXPECT_TRUE(at::equal(full_again.get(0), full.get(0)));
  EXPECT_TRUE(at::equal(quantized_again.get(0), quantized.get(0)));
}

TEST(Walk, WithoutAFullStreamDoesNotReadTheOriginalOfAFinishedBlock) {
  toy::Toy toy;
  KeepingSource source(*toy.weights);
  Halve halve;
  Keep keep(source);
  walk(*toy.model, source, {&halve, &keep}, {});
  source.kept.erase(1);
  source.loads.clear();
  HiddenStore quantized = stored(*toy.model, 1);
  walk(*toy.model, source, {&halve, &keep}, {nullptr, &quantized});
  EXPECT_THAT(source.loads, ElementsAre(1));
}

TEST(Walk, TheFullStreamIsTheModelThatRunsEveryBlockOnce) {
  toy::Toy toy, dense;
  dense.load_blocks();
  KeepingSource source(*toy.weights);
  Halve halve;
  Keep keep(source);
  toy.model->follow({{.block = 0}, {.block = 0}});
  HiddenStore full = stored(*toy.model, 1), quantized = stored(*toy.model, 1);
  const at::Tensor expected = dense.model->block(0).forward(full.get(0), {});
  walk(*toy.model, source, {&halve, &keep}, {&full, &quantized});
  EXPECT_TRUE(at::equal(full.get(0), expected));
  EXPECT_FALSE(at::equal(quantized.get(0), expected));
}

// ---- RecordingLinear: the only tap there is ----

TEST(RecordingLinear, ShowsTheInputAndLeavesTheOutputsUnchanged) {
  toy::Toy toy;
  toy.load_blocks();
  const at::Tensor expected = toy.model->forward(toy::ids());
  Slot& slot = toy.slot(3);  // down_proj of block 1
  std::vector<at::Tensor> inputs;
  const auto inner = slot.pointer();
  slot.put(std::make_shared<RecordingLinear>(inner, [&](const at::Tensor& x) { inputs.push_back(x); }));
  EXPECT_TRUE(at::equal(toy.model->forward(toy::ids()), expected));
  ASSERT_EQ(inputs.size(), 1);
  EXPECT_EQ(inputs[0].sizes(), at::IntArrayRef({2, 5, toy::kFfn}));
  const auto hidden = hidden_states(*toy.model, toy.model->embed(toy::ids()));
  EXPECT_TRUE(at::equal(hidden[2] - hidden[1], (hidden[1] + at::linear(inputs[0], inner->weight())) - hidden[1]));
}

TEST(RecordingLinear, IsInvisibleInStateAndBill) {
  toy::Toy toy;
  toy.load_blocks();
  const Cost before = bill(*toy.model);
  const size_t tensors = named_state(*toy.model).size();
  Slot& slot = toy.slot(0);
  slot.put(std::make_shared<RecordingLinear>(slot.pointer(), [](const at::Tensor&) {}));
  EXPECT_EQ(bill(*toy.model).dense_bits, before.dense_bits);
  EXPECT_EQ(bill(*toy.model).macs, before.macs);
  EXPECT_EQ(named_state(*toy.model).size(), tensors);
  EXPECT_EQ(slot.state().front().name, "model.layers.0.mlp.up_proj.weight");
  EXPECT_TRUE(slot.linear().bias().defined());
}

}  // namespace
}  // namespace core
