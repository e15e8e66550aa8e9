// The directory of a run: what lies in it, and that it repeats the run.
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "core/io/files.h"
#include "experiments/run/run_point.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(RunDirectory, HoldsWhatTheDesignLists) {
  const Lab lab;
  const std::string directory = lab.directory(lab.row());
  Strings names;
  for (const auto& entry : fs::directory_iterator(directory)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  EXPECT_THAT(names, ElementsAre(".lock", "checkpoint", "log.txt", "modules.csv", "resolved.yaml", "results.json",
                                 "windows.csv"));
  EXPECT_THAT(core::slurp(directory + "/log.txt"), HasSubstr("perplexity: "));
}

TEST(RunDirectory, ItsResolvedFileGivesTheSameIdAndTheSameNumbers) {
  const Lab lab;
  const Strings what{"quant.rules=[{match: \"*.down_proj\", weight: {bits: 3}}]",
                     "sweep.grid={quant.weight.group_size: [32]}"};
  Json first = lab.row(what);
  const std::string resolved = lab.directory(first) + "/resolved.yaml";
  Resources resources(lab.file("again") + "/.cache");
  Experiment again = open_experiment(resolved, {"out=" + lab.file("again")}, resources);
  ASSERT_EQ(again.runs.size(), 1u);
  Json second = run_experiment(std::move(again), resources, /*force=*/false).rows.at(0).json();
  EXPECT_EQ(first["swept"]["quant.weight.group_size"], "32");
  for (Json* row : {&first, &second}) row->erase("swept");
  EXPECT_EQ(without_costs(second), without_costs(first));
}

TEST(RunDirectory, ItsResolvedFileLeavesOutWhatTheStrategyDoesNotRead) {
  const Lab lab(shallow_model());
  const Json row = lab.row({"replication.strategy=parity_sign", "replication.parity_sign.window_bits=8"});
  const std::string resolved = lab.directory(row) + "/resolved.yaml";
  const core::Node keys = core::read_yaml(resolved);
  const core::Node& weight = *keys.find("quant")->find("weight");
  for (const char* key : {"symmetry", "zero_point", "offset", "range", "rounding", "codebook"})
    EXPECT_EQ(weight.find(key), nullptr) << key;
  EXPECT_NE(weight.find("clip"), nullptr);
  Resources resources(lab.file("again") + "/.cache");
  experiments::Run run = resolve(read_points(resolved, {}).at(0), resources);
  identify(run, resources);
  EXPECT_EQ(run.id, row["id"]);
}

TEST(RunDirectory, ItsResolvedFileNamesKeysOfTheFileThatItDoesNotRead) {
  const Lab lab;
  const Outcome outcome =
      lab.run({"quant.weight.symmetry=narrow", "sweep.grid={quant.weight.codebook: [uniform, lloyd_max]}"});
  const std::string directory = lab.directory(outcome.rows.at(1));
  EXPECT_THAT(core::slurp(directory + "/resolved.yaml"),
              HasSubstr("# not read with codebook: lloyd_max: quant.weight.symmetry: narrow\n"));
  EXPECT_THAT(core::slurp(directory + "/log.txt"),
              HasSubstr("keys of the file that this run does not read: quant.weight.symmetry (codebook: lloyd_max)"));
  Resources resources(lab.file("again") + "/.cache");
  experiments::Run run = resolve(read_points(directory + "/resolved.yaml", {}).at(0), resources);
  identify(run, resources);
  EXPECT_EQ(run.id, outcome.rows[1]["id"]);
}

TEST(RunDirectory, ItsCheckpointMeasuresBitForBitTheSame) {
  const Lab lab;
  const Json first = lab.row();
  const Json restored = lab.row({"model.path=" + lab.directory(first) + "/checkpoint", "quant.method=none"});
  Json measured = first["quantized"];
  for (const char* against_full : {"kl_mean", "kl_median", "kl_p90", "kl_p99", "kl_p999", "kl_max", "kl_not_finite",
                                   "top1_agreement", "change_of_p", "by_top1_probability"})
    measured["perplexity"][0].erase(against_full);
  EXPECT_EQ(restored["quantized"], measured);
  EXPECT_EQ(restored["hashes"]["codes"], first["hashes"]["codes"]);
  EXPECT_TRUE(restored["baseline"].is_null()) << "a quantized model has no full precision";
  for (const char* figure : {"codes", "with_parameters", "with_head"}) {
    EXPECT_EQ(restored["bits"][figure], first["bits"][figure]) << figure;
  }
}

TEST(RunDirectory, ItsCheckpointRemembersStaticActivationsAndQuantizedEnds) {
  const Lab lab;
  for (const char* rules : {"[]", "[{match: lm_head, weight: {bits: 4}}, {match: \"*.down_proj\", weight: {bits: 16}}]",
                            "[{match: lm_head, weight: {bits: 4}}, {match: \"*embed_tokens\", weight: {bits: 4}}]"}) {
    const Json made = lab.row({"quant.activation={bits: 5, mode: static, granularity: per_tensor}",
                               "calibration.samples=4", "calibration.seq_len=64", std::string("quant.rules=") + rules});
    const Json again = lab.row({"quant.method=none", "model.path=" + lab.directory(made) + "/checkpoint"});
    EXPECT_EQ(Lab::nll_of(again), Lab::nll_of(made)) << rules;
    EXPECT_EQ(again["hashes"]["codes"], made["hashes"]["codes"]) << rules;
    for (const char* bits : {"codes", "with_parameters", "with_head"})
      EXPECT_EQ(again["bits"][bits], made["bits"][bits]) << rules << bits;
  }
}

TEST(RunDirectory, ACheckpointIsNotQuantizedTwice) {
  const Lab lab;
  const std::string checkpoint = lab.directory(lab.row()) + "/checkpoint";
  EXPECT_EQ(core::message_of([&] { lab.row({"model.path=" + checkpoint}); }),
            lab.file("lab.yaml") + ":3: quant.method: " + checkpoint +
                " is quantized already. Use method: none to measure it.");
}

}  // namespace
}  // namespace experiments
