// A checkpoint that is being written: finished blocks are found, described and read back; a walk that was stopped goes
// on behind them and leaves the same files.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "quant/linear/quantized_linear.h"
#include "tests/export/support.h"

namespace exports {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;

constexpr const char* kQuant =
    "{weight: {bits: 3, group_size: 8}, rules: [{match: '*.1.*.k_proj', weight: {bits: 16}}]}";

// One quantization of a golden model, as the runner does it.
struct Work {
  std::string directory = golden("llama_biases");
  core::Weights weights = weights_of(directory, at::kFloat);
  std::shared_ptr<core::Model> model = models::build(core::read_hf_config(directory));
  quant::QuantConfig config = [] {
    quant::QuantConfig c;
    core::bind(core::parse_yaml(kQuant, "test.yaml"), c, "quant");
    return c;
  }();
  quant::Quantize quantize{config.methods.at("rtn").share(), "rtn", quant::assign(config, *model)};
  Save save;
  UnfinishedSource source;

  Work(const core::Scratch& out)
      : save(directory, weights, out.file("checkpoint"), "0123abc", {out.file("progress"), {&quantize}}),
        source(weights, out.file("checkpoint"), out.file("progress")) {
    model->load_embedding_and_head(weights);
  }
  void walk(const std::vector<core::Stage*>& before = {}, core::Streams streams = {}) {
    std::vector<core::Stage*> stages = before;
    stages.insert(stages.end(), {&quantize, &save});
    core::walk(*model, source, stages, streams);
  }
};

// Every file of a directory with its content.
std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::directory_iterator(directory)) all[entry.path().filename()] = core::slurp(entry.path());
  return all;
}

TEST(Unfinished, AStoppedWalkGoesOnAndLeavesTheSameFiles) {
  const core::Scratch whole, stopped;
  Work at_once(whole);
  at_once.walk();
  StopAtBlock stop(1);
  Work first(stopped);
  EXPECT_THROW(first.walk({&stop}), std::runtime_error);
  EXPECT_TRUE(first.source.finished(0));
  EXPECT_FALSE(first.source.finished(1));
  EXPECT_FALSE(is_quantized_checkpoint(stopped.file("checkpoint")));
  Work second(stopped);
  second.walk();
  EXPECT_EQ(contents(stopped.file("checkpoint")), contents(whole.file("checkpoint")));
  ASSERT_EQ(second.quantize.reports().size(), at_once.quantize.reports().size());
  for (size_t i = 0; i < at_once.quantize.reports().size(); ++i) {
    const quant::ModuleReport &a = at_once.quantize.reports()[i], &b = second.quantize.reports()[i];
    EXPECT_EQ(std::tie(a.path, a.method, a.out_features, a.in_features, a.bits, a.groups, a.weight_error,
                       a.weight.absmax, a.weight.kurtosis, a.weight.outlier_columns, a.fallback),
              std::tie(b.path, b.method, b.out_features, b.in_features, b.bits, b.groups, b.weight_error,
                       b.weight.absmax, b.weight.kurtosis, b.weight.outlier_columns, b.fallback));
  }
}

TEST(Unfinished, TheStreamsRunThroughBlocksAsTheyWereWritten) {
  const core::Scratch whole, stopped;
  const auto stream = [](const Work& work) {
    core::HiddenStore hidden(1);
    hidden.put(0, work.model->embed(at::arange(7, at::kLong).unsqueeze(0)));
    return hidden;
  };
  Work at_once(whole), first(stopped), second(stopped);
  core::HiddenStore expected_full = stream(at_once), expected = stream(at_once);
  at_once.walk({}, {&expected_full, &expected});
  StopAtBlock stop(1);
  EXPECT_THROW(first.walk({&stop}), std::runtime_error);
  core::HiddenStore full = stream(second), quantized = stream(second);
  second.walk({}, {&full, &quantized});
  EXPECT_TRUE(at::equal(full.get(0), expected_full.get(0)));
  EXPECT_TRUE(at::equal(quantized.get(0), expected.get(0)));
  EXPECT_FALSE(at::equal(quantized.get(0), full.get(0)));

  Opened written = opened(whole.file("checkpoint"));  // what was written is what was carried
  core::HiddenStore read_back = stream(at_once);
  core::walk(*written.model, *written.source, {}, {nullptr, &read_back});
  EXPECT_TRUE(at::equal(read_back.get(0), expected.get(0)));
}

TEST(Unfinished, ABlockIsFinishedWhenShardAndDescriptionAreThere) {
  const core::Scratch out;
  Work work(out);
  work.walk();
  EXPECT_TRUE(work.source.finished(1));
  fs::remove(out.file("progress/block-00001.json"));
  EXPECT_FALSE(work.source.finished(1));
  fs::remove(out.file("checkpoint/block-00000.safetensors"));
  EXPECT_FALSE(work.source.finished(0));
}

TEST(Unfinished, ADescriptionHoldsModulesAndRecordsOfItsBlock) {
  const core::Scratch out;
  Work work(out);
  work.walk();
  const Manifest block = read_manifest(out.file("progress/block-00001.json"));
  EXPECT_EQ(block.modules.size(), 6u) << "one of seven is left in full precision";
  for (const auto& [path, module] : block.modules) EXPECT_THAT(path, ::testing::StartsWith("model.layers.1."));
  EXPECT_EQ(nlohmann::json::parse(block.records.at("quantize")).size(), 6u);
  EXPECT_EQ(block.commit, "0123abc");
}

TEST(Unfinished, FinishedReportsAreRestoredWithoutAWalk) {
  const core::Scratch out;
  Work work(out), later(out);
  work.walk();
  later.save.restore_finished(*later.model);
  EXPECT_EQ(later.quantize.reports().size(), work.quantize.reports().size());
}

TEST(OpenSource, StreamingDropsBlocksAndChangesNoBit) {
  const core::Scratch out;
  Work work(out);
  work.walk();
  for (const std::string& directory : {golden("llama_biases"), out.file("checkpoint")}) {
    Opened resident = opened(directory);
    const core::Weights weights = weights_of(directory, at::kFloat);
    const auto model = models::build(core::read_hf_config(directory));
    const auto source = open_source(*model, directory, weights, Residency::stream);
    model->load_embedding_and_head(weights);
    core::HiddenStore a(1), b(1);
    a.put(0, model->embed(at::arange(7, at::kLong).unsqueeze(0)));
    b.put(0, a.get(0));
    core::walk(*model, *source, {}, {nullptr, &a});
    core::walk(*resident.model, *resident.source, {}, {nullptr, &b});
    EXPECT_TRUE(at::equal(a.get(0), b.get(0))) << directory;
    for (const core::Slot* slot : model->slots()) EXPECT_FALSE(slot->filled()) << slot->path();
    for (const core::Slot* slot : resident.model->slots()) EXPECT_TRUE(slot->filled()) << slot->path();
  }
}

}  // namespace
}  // namespace exports
