// What the command line offers: help, lists, a plan without a trace, overrides, and the table at the end.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/config/keys.h"
#include "core/config/nearest.h"
#include "experiments/config/spec.h"
#include "experiments/run/version.h"
#include "models/registry.h"
#include "quant/kernels/product.h"
#include "quant/registry.h"
#include "quant/transform.h"
#include "replication/strategy.h"
#include "tests/cli/program.h"

namespace cli {
namespace {

namespace fs = std::filesystem;

using ::testing::Contains;
using ::testing::ContainsRegex;
using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

// Paths of all results.json, relative.
Strings results(const Program& program) {
  Strings found;
  for (const std::string& path : program.everything()) {
    if (path.ends_with("/results.json")) found.push_back(path);
  }
  return found;
}

nlohmann::json only_result(const Program& program) {
  const Strings found = results(program);
  EXPECT_EQ(found.size(), 1u);
  return nlohmann::json::parse(core::slurp(program.file(found.at(0))));
}

TEST(Options, HelpShowsTheOptionsAndTheKeys) {
  Program program;
  const Finished help = program.run({"--help"});
  EXPECT_EQ(help.code, 0);
  EXPECT_EQ(help.err, "");
  for (const char* text : {"--set", "--out", "--dry-run", "--force", "--threads", "--quiet", "--list", "--version",
                           "--cache-limit", "--no-build", "Keys of a configuration:", "  measure  "}) {
    EXPECT_THAT(help.out, HasSubstr(text));
  }
}

TEST(Options, HelpOfAKeyIsItsDeclaration) {
  Program program;
  experiments::Spec spec;
  EXPECT_EQ(program.run({"--help", "quant.weight"}).out, core::help(spec, "quant.weight"));
  EXPECT_EQ(program.run({"--help", "quant.weight.bits"}).out, core::help(spec, "quant.weight.bits"));
}

TEST(Options, ListsPrintWhatThereIs) {
  Program program;
  experiments::Spec spec;
  const Finished all = program.run({"--list"});
  EXPECT_EQ(all.code, 0);
  const auto has = [&](const std::string& text) { EXPECT_THAT(all.out, HasSubstr(text)); };
  const auto has_line = [&](const std::string& name, const std::string& text) {
    has(fmt::format("\n{:<12} {}\n", name, text));
  };
  for (const char* title : {"methods:\n", "transforms:\n", "strategies:\n", "families: ", "kernels:\n", "corpora:\n"})
    has(title);
  for (const auto& [name, method] : quant::make_methods()) has_line(name, method->summary());
  for (const auto& [name, transform] : quant::make_transforms()) has_line(name, transform->summary());
  for (const auto& [name, strategy] : replication::make_strategies()) has_line(name, strategy->summary());
  for (const quant::kernels::Kernel& kernel : quant::kernels::kernels())
    has_line(kernel.name, kernel.runs_here ? "runs here" : "not on this CPU");
  has("families: " + core::joined(models::families()) + "\n");
  for (const std::string& model : embedded_models()) has("\n" + model + "\n");
  has("tiny/test\n");
  EXPECT_EQ(program.run({"--list", "corpora"}).out, "tiny/test\ntiny/train\ntiny/valid\n");
  EXPECT_EQ(program.run({"--list", "keys"}).out, core::key_table(spec));
}

TEST(Options, VersionNamesTheCommit) {
  Program program;
  const Finished version = program.run({"--version"});
  EXPECT_EQ(version.code, 0);
  EXPECT_THAT(version.out, MatchesRegex("refrain [^ ]+ · libtorch [0-9.]+[^ ]*\n"));
  EXPECT_THAT(version.out, HasSubstr(experiments::commit()));
}

TEST(Options, DryRunPrintsRunDirectoriesAndWritesNothing) {
  Program program;
  program.put("c.yaml", core::slurp(program.file("c.yaml")) + "sweep: {grid: {quant.weight.bits: [4, 3]}}\n");
  const Strings before = program.everything();
  const Finished plan = program.run({"c.yaml", "--dry-run"});
  EXPECT_EQ(plan.code, 0);
  EXPECT_EQ(plan.err, "");
  EXPECT_THAT(plan.out, MatchesRegex("to run    runs/n/[0-9a-f]+  quant.weight.bits=4\n"
                                     "to run    runs/n/[0-9a-f]+  quant.weight.bits=3\n"));
  EXPECT_EQ(program.everything(), before);
  EXPECT_EQ(program.run({"c.yaml", "--set", "sweep.grid={quant.weight.bits: [3]}", "--quiet"}).code, 0);
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out, MatchesRegex("to run [^\n]+\nfinished [^\n]+\n"));
}

TEST(Options, DryRunTellsHowLongTrainingTakes) {
  Program program;
  program.put("c.yaml", core::slurp(program.file("c.yaml")) +
                            "qat: {steps: 2, batch: 2, seq_len: 32, warmup: 1}\n"
                            "sweep: {grid: {quant.weight.bits: [4, 3]}}\n");
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out,
              MatchesRegex("(to run [^\n]+\n)+training: 2 runs, [0-9]+ s at least: an estimate, [0-9.e+]+ "
                           "multiply-accumulates at the speed of a matrix product\n"));
  EXPECT_EQ(program.run({"c.yaml", "--set", "sweep.grid={quant.weight.bits: [3]}", "--quiet"}).code, 0);
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out, HasSubstr("\ntraining: 1 run, about "));
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out, HasSubstr(", by the speed of 1 finished\n"));
}

TEST(Options, DryRunTellsWhatSensitivityCostsAndWhichControlsThereAreNot) {
  Program program;
  program.put("c.yaml",
              core::slurp(program.file("c.yaml")) +
                  "calibration: {samples: 2, seq_len: 64}\n"
                  "replication:\n"
                  "  strategy: low_rank\n"
                  "  select: {policy: sensitivity, metric: kl, candidates: 2}\n"
                  "  controls: [single, random_selection]\n"
                  "sweep: {cases: [{}, {replication: {strategy: low_rank, controls: [random_selection]}}]}\n");
  const Finished plan = program.run({"c.yaml", "--dry-run"});
  EXPECT_EQ(plan.err, "");
  EXPECT_THAT(plan.out, HasSubstr("  replication.control=random_selection replication.draw=5\n"));
  EXPECT_THAT(plan.out, HasSubstr("\nno control  replication={strategy: low_rank, controls: [random_selection]} "
                                  "replication.control=random_selection replication.draw=1  random_selection: the "
                                  "replica selects every unit, so another choice is the same one\n"));
  EXPECT_THAT(plan.out,
              MatchesRegex("(.|\n)*\nsensitivity by KL: 2 of 42 linears, at most 12 forward passes of a block "
                           "over 128 tokens\nsensitivity by output error: 42 linears, one walk over 6 "
                           "blocks\nwalks that measure: [0-9]+ s at least: an estimate, [0-9.e+]+ "
                           "multiply-accumulates at the speed of a matrix product\n"));
}

TEST(Options, DryRunTellsWhatMeasuringExpertsCostsOncePerSweep) {
  Program program;
  program.put("c.yaml", core::slurp(program.file("c.yaml")) +
                            "calibration: {samples: 2, seq_len: 64}\n"
                            "sweep: {grid: {quant.expert_bits.policy: [optimal, random]}}\n");
  const Strings given{"c.yaml", "--set", "model.path=tiny-deepseek-moe", "--set", "quant.expert_bits.mean_bits=2"};
  const auto with = [&](const char* last) {
    Strings all = given;
    all.push_back(last);
    return program.run(all);
  };
  const Finished plan = with("--dry-run");
  EXPECT_EQ(plan.err, "");
  EXPECT_THAT(plan.out, MatchesRegex("to run [^\n]+\nto run [^\n]+\n"
                                     "experts: 16 at 4 widths, one walk over 3 blocks\n"
                                     "walks that measure: [0-9]+ s at least: an estimate, [0-9.e+]+ "
                                     "multiply-accumulates at the speed of a matrix product\n"));
  EXPECT_EQ(with("--quiet").code, 0);
  EXPECT_THAT(with("--dry-run").out,
              MatchesRegex("finished [^\n]+\nfinished [^\n]+\n"
                           "experts: 16 at 4 widths, one walk over 3 blocks \\(in the cache\\)\n"));
}

TEST(Options, ARunPrintsItsTableAndItsDirectory) {
  Program program;
  const Finished run = program.run({"c.yaml"});
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.err, "");
  EXPECT_THAT(run.out, HasSubstr("ppl text.txt (gptq 64)"));
  EXPECT_THAT(run.out, HasSubstr("\nfull precision "));
  const std::string id = only_result(program)["id"];
  EXPECT_THAT(run.out, HasSubstr("\nruns/n/" + id + "\n"));
  EXPECT_THAT(program.run({"c.yaml"}).out, HasSubstr("finished before; --force runs it again\n"));
}

TEST(Options, ARunOfAnOlderStageIsStaleAndMadeAnew) {
  Program program;
  ASSERT_EQ(program.run({"c.yaml"}).code, 0);
  const std::string file = results(program).at(0);
  auto older = nlohmann::ordered_json::parse(core::slurp(program.file(file)));
  for (auto& stage : older["stages"])
    if (stage["name"] == "quantize") stage["version"] = stage["version"].get<int>() - 1;
  older["quantized"]["perplexity"][0]["ppl"] = 1.5;  // a stale number
  program.put(file, older.dump());
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out, MatchesRegex("stale     runs/n/[0-9a-f]+  \n"));
  const Finished again = program.run({"c.yaml"});
  EXPECT_EQ(again.code, 0);
  EXPECT_THAT(again.out, ContainsRegex("a stale run is made anew: quantize was version [0-9]+ and is [0-9]+ now\n"));
  EXPECT_GT(only_result(program)["quantized"]["perplexity"][0]["ppl"], 1.5);
  EXPECT_THAT(program.run({"c.yaml", "--dry-run"}).out, HasSubstr("finished"));
}

TEST(Options, TheCacheIsKeptBelowItsLimit) {
  Program program;
  const auto entries = [&] {
    Strings found;
    for (const std::string& path : program.everything())
      if (path.starts_with("runs/.cache/") && path.ends_with("/key.txt")) found.push_back(path);
    return found;
  };
  ASSERT_EQ(program.run({"c.yaml"}).code, 0);
  const Strings first = entries();
  ASSERT_EQ(first.size(), 2u);  // tokens, full precision
  program.put("other.txt", "More. " + core::slurp(program.file("text.txt")));
  const Strings other{"c.yaml", "--set", "measure.perplexity[0].corpus=other.txt"};
  ASSERT_EQ(program.run(other).code, 0);
  EXPECT_EQ(entries().size(), 4u);
  program.put("third.txt", "Still more. " + core::slurp(program.file("text.txt")));
  ASSERT_EQ(program.run({"c.yaml", "--set", "measure.perplexity[0].corpus=third.txt", "--cache-limit", "1k"}).code, 0);
  const Strings last = entries();  // what is in use goes over the limit
  ASSERT_EQ(last.size(), 1u);
  EXPECT_THAT(first, Not(Contains(last[0])));
}

TEST(Options, QuietPrintsTheTableOnly) {
  Program program;
  const Finished run = program.run({"c.yaml", "--quiet"});
  EXPECT_EQ(run.out.substr(0, 7), "\nmodel ") << run.out;
}

TEST(Options, SetReachesEveryKeyAndItemsOfListsAnyNumberOfTimes) {
  Program program;
  ASSERT_EQ(program
                .run({"--set", "quant.weight.bits=3", "c.yaml", "--set", "measure.perplexity[0].seq_len=32", "--set",
                      "out=elsewhere"})
                .code,
            0);
  const auto result = only_result(program);
  EXPECT_EQ(result["quantized"]["perplexity"][0]["seq_len"], 32);
  EXPECT_EQ(result["bits"]["codes"], 3.0);
  EXPECT_TRUE(fs::exists(program.file("elsewhere/n/summary.csv")));
}

TEST(Options, OutAndThreadsAreShortcutsOfTheirKeys) {
  Program program;
  ASSERT_EQ(program.run({"c.yaml", "--out", "a b", "--threads", "1"}).code, 0);
  EXPECT_EQ(only_result(program)["machine"]["threads"], 1);
  EXPECT_TRUE(fs::exists(program.file("a b/index.csv")));
}

TEST(Options, SeveralFilesRunOneAfterTheOther) {
  Program program;
  program.put("d.yaml", core::slurp(program.file("c.yaml")));
  program.edit("name: n", "name: second", "d.yaml");
  EXPECT_EQ(program.run({"c.yaml", "d.yaml", "--quiet"}).code, 0);
  EXPECT_EQ(results(program).size(), 2u);
  EXPECT_TRUE(fs::exists(program.file("runs/second/summary.md")));
}

TEST(Options, AConfigurationThatMeasuresNothingStillQuantizes) {
  Program program;
  const Finished run = program.run({"c.yaml", "--set", "measure.perplexity=[]"});
  EXPECT_EQ(run.code, 0) << run.err;
  const auto result = only_result(program);
  EXPECT_EQ(result["quantized"]["perplexity"], nlohmann::json::array());
  EXPECT_EQ(result["bits"]["codes"], 4.0);
}

TEST(Options, AFailedPointOfASweepGivesExitCodeOne) {
  Program program;
  program.put("c.yaml", core::slurp(program.file("c.yaml")) + "sweep: {grid: {quant.weight.bits: [4, 3]}}\n");
  const std::string plan = program.run({"c.yaml", "--dry-run"}).out;
  fs::create_directories(program.file("runs/n"));
  program.put(plan.substr(plan.find("runs/n/"), plan.find("  quant") - plan.find("runs/n/")), "in the way");
  const Finished run = program.run({"c.yaml"});
  EXPECT_EQ(run.code, 1);
  EXPECT_THAT(run.out, HasSubstr("failed: runs/n/"));
  EXPECT_EQ(results(program).size(), 1u);
}

}  // namespace
}  // namespace cli
