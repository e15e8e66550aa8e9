// The user's mistakes in a configuration, a text, a place or on the command line.
#include "tests/cli/bad_input.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/io/file_lock.h"
#include "core/io/files.h"

namespace cli {
namespace {

namespace fs = std::filesystem;

using ::testing::HasSubstr;
using ::testing::MatchesRegex;

// ---- the configuration ----

TEST_F(BadInput, MisspeltKey) {
  refused_after("group_size", "goup_size",
                "c.yaml:3: quant.weight.goup_size is not a known key. Did you mean `group_size`? Known keys: " +
                    keys_of<quant::WeightConfig>() + ".");
}

TEST_F(BadInput, DuplicateKey) {
  refused_after("bits: 4,", "bits: 4, bits: 3,",
                "c.yaml:3: quant.weight.bits is given twice, first on line 3. Keep one of them.");
}

TEST_F(BadInput, MergeKey) {
  refused_after("weight: {", "weight: {<<: {bits: 3}, ",
                "c.yaml:3: the merge key `<<` is not supported. Write the keys out.");
}

TEST_F(BadInput, WrongType) {
  refused_after("bits: 4", "bits: four",
                "c.yaml:3: quant.weight.bits must be an integer, not `four`. Write a number in [1, 16].");
}

TEST_F(BadInput, OutOfRange) {
  refused_after("bits: 4", "bits: 0", "c.yaml:3: quant.weight.bits is out of range: 0. Write a number in [1, 16].");
}

TEST_F(BadInput, UnknownMethod) {
  refused_after(
      "rtn", "rtm",
      "c.yaml:3: quant.method: `rtm` is not one of its values. Did you mean `rtn`? Choices: " + methods() + ".");
}

TEST_F(BadInput, RuleThatMatchesNothing) {
  refused_after(
      "weight: {bits", "rules: [{match: \"*.dawn_proj\", weight: {bits: 3}}], weight: {bits",
      "c.yaml:3: quant.rules[0].match: `*.dawn_proj` matches no linear of this model. Its linears are named like "
      "model.layers.0.self_attn.q_proj.");
}

TEST_F(BadInput, GroupSizeThatDoesNotDivide) {
  refused_after(
      "group_size: 64", "group_size: 48",
      "model.layers.0.self_attn.q_proj: group_size 48 does not divide 128 input features. Choose a divisor, or -1.");
}

TEST_F(BadInput, ContextThatTheModelDoesNotHold) {
  refused_after("measure:\n", "measure:\n  latency: {contexts: [64, 2000]}\n",
                "c.yaml:5: measure.latency.contexts: 2064 tokens are more than the context of the model, which holds "
                "2048. Shorten the prompt or ask for fewer.");
}

TEST_F(BadInput, PromptsThatTheTextDoesNotHold) {
  const std::string generation = "measure:\n  generation: {corpus: text.txt, prompts: 1000, new_tokens: 4}\n";
  program_.edit("measure:\n", generation);
  const Finished finished = program_.run({"c.yaml"});
  EXPECT_EQ(finished.code, 2);
  EXPECT_THAT(finished.err, MatchesRegex("c.yaml:5: measure.generation.corpus: text.txt has [0-9]+ tokens, fewer than "
                                         "prompts x prompt_tokens = 1000 x 64. Lower them or name a longer text.\n"));
  refused_after(generation, "measure:\n  generation: {prompts: 1000}\n",
                "c.yaml:5: measure.generation: corpus is missing. Name a text, e.g. tiny/test.");
}

TEST_F(BadInput, StrategyWithoutCodes) {
  program_.edit("quant: {method: rtn", "replication: {strategy: parity_sign}\nquant: {method: rtn");
  refused_after("method: rtn", "method: none",
                "c.yaml:3: replication.strategy: parity_sign uses codes several times, but quant.method: none makes "
                "none. Choose a method.");
}

TEST_F(BadInput, BudgetThatHoldsNothing) {
  program_.edit("quant: {method: rtn",
                "replication: {strategy: low_rank, select: {policy: sensitivity, budget: 0.5}}\nquant: {method: rtn");
  refused_after("budget: 0.5", "budget: 0.01",
                "c.yaml:3: replication.select.budget: 0.01 bits per weight hold no linear: the cheapest adds 0.0139. "
                "Raise it.");
}

TEST_F(BadInput, SelectionThatExceedsItsBudget) {
  program_.edit("quant: {method: rtn",
                "replication: {strategy: low_rank, select: {policy: every, budget: 0.5}}\nquant: {method: rtn");
  refused_after(
      "budget: 0.5", "budget: 0.4",
      "c.yaml:3: replication.select.budget: the selection adds 0.444 bits per weight, more than 0.4. Raise it, "
      "or select less.");
}

TEST_F(BadInput, ControlsWithoutAReplica) {
  program_.edit("quant: {method: rtn", "replication: {controls: [single]}\nquant: {method: rtn");
  refused(
      "c.yaml:3: replication.controls: controls stand beside a replica, and strategy: none makes none. Choose a "
      "strategy.");
}

TEST_F(BadInput, StrategyThatTheMethodCannotEncodeFor) {
  program_.edit("quant: {method: rtn", "replication: {strategy: parity_sign}\nquant: {method: rtn");
  program_.edit("bits: 4", "bits: 2");
  refused_after("method: rtn", "method: gptq",
                "c.yaml:4: quant.method: gptq cannot encode for the format parity_sign. Choose another method.");
}

TEST_F(BadInput, VariableThatTheStrategyDoesNotRead) {
  program_.edit("quant: {method: rtn", "replication: {strategy: parity_sign}\nquant: {method: rtn");
  program_.edit("bits: 4", "bits: 2");
  refused_after("group_size: 64", "group_size: 64, offset: 0.5",
                "c.yaml:4: quant.weight.offset is not read with replication.strategy: "
                "parity_sign. Remove one of the two.");
}

TEST_F(BadInput, WindowThatNoMemoryHolds) {
  refused_after("quant: {method: rtn", "replication: {parity_sign: {window_bits: 40}}\nquant: {method: rtn",
                "c.yaml:3: replication.parity_sign.window_bits is out of range: 40. Write a number in [2, 16].");
}

TEST_F(BadInput, CodesAboveEightBits) {
  refused_after(
      "quant: {method: rtn",
      "replication: {strategy: scales, scales: {replicas: [{}, {}, {}], own_codes: true}}\nquant: {method: rtn",
      "model.layers.0.self_attn.q_proj: 3 sets of 4-bit codes are 12 bits a weight, above 8. Use fewer "
      "replicas or bits.");
}

TEST_F(BadInput, ReplicasOfInputsThatAreNotQuantized) {
  refused_after("quant: {method: rtn",
                "replication: {strategy: scales, scales: {replicas: [{}, {activation: {offset: 0.5}}]}}\nquant: "
                "{method: rtn",
                "model.layers.0.self_attn.q_proj: its replicas differ in how inputs are quantized, but they are not: "
                "quant.activation.bits is 16. Set it to 8 or less.");
}

TEST_F(BadInput, ParameterToTrainThatTheModelDoesNotHave) {
  program_.edit("quant: {method: rtn", "qat: {steps: 2, train: [scale, codebook]}\nquant: {method: rtn");
  refused(
      "c.yaml:3: qat.train: no linear of this model has a codebook to train. Leave it out; it has: scale, zero_point, "
      "norms.");
}

TEST_F(BadInput, TheBestIterateWithoutHeldOutText) {
  program_.edit("quant: {method: rtn", "qat: {steps: 2, held_out: 0}\nquant: {method: rtn");
  refused("c.yaml:3: qat.keep: best needs held-out text. Set qat.held_out or qat.held_out_corpus, or qat.keep: last.");
}

TEST_F(BadInput, HeldOutTextThatIsTooShort) {
  program_.edit("quant: {method: rtn", "qat: {steps: 2, held_out: 0.0001}\nquant: {method: rtn");
  const Finished finished = program_.run({"c.yaml"});
  EXPECT_EQ(finished.code, 2);
  EXPECT_THAT(finished.err,
              MatchesRegex("c\\.yaml:3: qat\\.held_out: the held-out text has [0-9]+ tokens, fewer than a "
                           "window of 256\\. Hold out more of it\\.\n"));
}

TEST_F(BadInput, FileThatIsNotYaml) {
  program_.put("c.yaml", "name: [a\n");
  refused("c.yaml:2: not valid YAML: end of sequence flow not found. Check indentation, brackets and quotes here.");
}

TEST_F(BadInput, APointOfASweep) {
  program_.put("c.yaml",
               core::slurp(program_.file("c.yaml")) + "sweep: {grid: {quant.weight.group_size: [64, 32, 48]}}\n");
  refused(
      "model.layers.0.self_attn.q_proj: group_size 48 does not divide 128 input features. Choose a divisor, or -1.");
}

// ---- the text ----

TEST_F(BadInput, MissingCorpus) {
  refused_after("text.txt", "tiny/tset",
                "tiny/tset: no such corpus or file. Did you mean `tiny/test`? Known corpora: tiny/test, tiny/train, "
                "tiny/valid. Set "
                "REFRAIN_DATA to a folder that holds more.");
}

TEST_F(BadInput, CorpusTooShortForOneWindow) {
  program_.put("text.txt", "A short text.");
  const Finished finished = program_.run({"c.yaml"});
  EXPECT_EQ(finished.code, 2);
  EXPECT_THAT(finished.err,
              MatchesRegex("text\\.txt: [0-9]+ tokens are too few for one window of 64\\. Choose a smaller "
                           "seq_len or a longer corpus\\.\n"));
}

TEST_F(BadInput, TokenIdBeyondTheEmbedding) {
  program_.own_model();
  auto tokenizer = nlohmann::ordered_json::parse(core::slurp(program_.file("model/tokenizer.json")));
  auto token = tokenizer["added_tokens"].at(0);
  token["id"] = 1024;
  token["content"] = "<|beyond|>";
  tokenizer["added_tokens"].push_back(token);
  program_.put("model/tokenizer.json", tokenizer.dump());
  program_.put("text.txt", "<|beyond|>" + core::slurp(program_.file("text.txt")));
  refused(
      "text.txt: token 0 has the id 1024, but the model's embedding has 1024 rows. Use the tokenizer that belongs to "
      "the "
      "model.");
}

TEST_F(BadInput, WindowLongerThanTheContext) {
  const std::string home = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";
  refused_after(
      "seq_len: 64", "seq_len: 4096",
      fmt::format(
          "c.yaml:5: measure.perplexity[0].seq_len is 4096, longer than the context of {} (2048 tokens). Lower it.",
          home));
}

// ---- where the results go ----

TEST_F(BadInput, OutputBelowARegularFile) {
  refused(
      "text.txt/runs: this directory cannot be made: a part of the path is a file, not a directory. Choose another "
      "place.",
      {"c.yaml", "--out", "text.txt/runs"});
}

TEST_F(BadInput, OutputDirectoryThatCannotBeWritten) {
  if (::geteuid() == 0) GTEST_SKIP() << "root writes everywhere";
  fs::create_directory(program_.file("closed"));
  fs::permissions(program_.file("closed"), fs::perms::owner_read | fs::perms::owner_exec);
  refused("closed: this directory is not writable. Choose another place.", {"c.yaml", "--out", "closed"});
}

TEST_F(BadInput, ASecondRunnerIsToldWhoHoldsTheRunDirectory) {
  const std::string plan = program_.run({"c.yaml", "--dry-run"}).out;
  const std::string directory = plan.substr(plan.find("runs/"), plan.find_last_not_of(" \n") + 1 - plan.find("runs/"));
  core::create_directories(program_.file(directory));
  {
    const core::FileLock held = core::FileLock::directory(program_.file(directory));
    const Finished finished = program_.run({"c.yaml"});
    EXPECT_EQ(finished.code, 2);
    EXPECT_EQ(std::count(finished.err.begin(), finished.err.end(), '\n'), 1);
    EXPECT_THAT(finished.err, HasSubstr(fmt::format("{}: another runner holds this run directory (pid {} on ",
                                                    directory, ::getpid())));
    EXPECT_THAT(finished.err, HasSubstr("Wait for it or choose another --out."));
    EXPECT_FALSE(fs::exists(program_.file(directory + "/resolved.yaml")));
  }
  EXPECT_EQ(program_.run({"c.yaml"}).code, 0) << "the lock is free again";
  EXPECT_TRUE(fs::exists(program_.file(directory + "/results.json")));
}

TEST_F(BadInput, AFullDiskEndsASweepWithOneLineAndKeepsWhatIsFinished) {
  const std::string config = core::slurp(program_.file("c.yaml"));
  program_.put("c.yaml", config + "sweep: {grid: {quant.weight.bits: [4]}}\n");
  ASSERT_EQ(program_.run({"c.yaml"}).code, 0);
  const auto results = [&] {
    Strings found;
    for (const std::string& path : program_.everything())
      if (path.ends_with("/results.json")) found.push_back(path);
    return found;
  };
  const Strings finished = results();
  ASSERT_EQ(finished.size(), 1u);
  const std::string content = core::slurp(program_.file(finished[0]));

  program_.put("c.yaml", config + "sweep: {grid: {quant.weight.bits: [4, 3, 2]}}\n");
  program_.limit_file_size(40'000);  // less than a checkpoint
  const Finished stopped = program_.run({"c.yaml"});
  EXPECT_EQ(stopped.code, 2);
  EXPECT_THAT(stopped.err, MatchesRegex("runs/n/[0-9a-f]+/[^ ]+: cannot be written: the file grows beyond the size "
                                        "limit\\. Free some space or choose another place\\.\n"));
  EXPECT_EQ(results(), finished);
  EXPECT_EQ(core::slurp(program_.file(finished[0])), content);

  program_.limit_file_size(0);
  EXPECT_EQ(program_.run({"c.yaml"}).code, 0) << "the next call goes on";
  EXPECT_EQ(results().size(), 3u);
}

// ---- the command line ----

TEST_F(BadInput, CacheLimitThatIsNoSize) {
  refused("--cache-limit: `20 apples` is not a size. Write a number and k, M, G or T, e.g. 20GB.",
          {"c.yaml", "--cache-limit", "20 apples"});
}

TEST_F(BadInput, NoFile) {
  refused("no configuration given. Try ./run_experiment configs/quickstart.yaml, or --help.", {});
}

TEST_F(BadInput, FileThatIsNotThere) { refused("d.yaml: no such file. Check the path.", {"d.yaml"}); }

TEST_F(BadInput, UnknownOption) {
  refused("The following argument was not expected: --froce. Try --help.", {"c.yaml", "--froce"});
}

TEST_F(BadInput, OverrideThatIsNone) {
  refused("--set bits: has no `=`. Write --set key=value.", {"c.yaml", "--set", "bits"});
}

TEST_F(BadInput, OverrideOfAnUnknownKey) {
  refused("--set quant.bits=3: quant.bits is not a known key. Known keys: " + keys_of<quant::QuantConfig>() + ".",
          {"c.yaml", "--set", "quant.bits=3"});
}

TEST_F(BadInput, OverrideOfAMissingItem) {
  refused(
      "--set measure.perplexity[1].seq_len=8: measure.perplexity has 1 item, so it has no item 1. Write an index below "
      "1, or "
      "set the whole list.",
      {"c.yaml", "--set", "measure.perplexity[1].seq_len=8"});
}

TEST_F(BadInput, UnknownList) {
  refused(
      "--list: there is no list of `method`. Did you mean `methods`? Lists: methods, transforms, strategies, "
      "models, corpora, tasks, kernels, keys.",
      {"--list", "method"});
}

TEST_F(BadInput, UnknownHelpKey) {
  refused("--help quant.wieght: quant.wieght is not a known key. Did you mean `weight`? Known keys: " +
              keys_of<quant::QuantConfig>() + ".",
          {"--help", "quant.wieght"});
}

TEST_F(BadInput, TheSecondOfTwoFilesBeforeTheFirstHasRun) {
  program_.put("d.yaml", core::slurp(program_.file("c.yaml")));
  program_.edit("group_size: 64", "group_size: 48", "d.yaml");
  refused("model.layers.0.self_attn.q_proj: group_size 48 does not divide 128 input features. Choose a divisor, or -1.",
          {"c.yaml", "d.yaml"});
}

}  // namespace
}  // namespace cli
