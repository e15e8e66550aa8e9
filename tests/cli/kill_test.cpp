// A run that is killed, interrupted or out of disk goes on behind its last finished block and ends bit for bit as one
// that was never stopped.
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "core/io/csv.h"
#include "tests/cli/program.h"

namespace cli {
namespace {

namespace fs = std::filesystem;

using std::chrono::milliseconds;
using ::testing::HasSubstr;
using Files = std::map<std::string, std::string>;  // path relative to the run directory -> content

// Results without what two runs of the same thing need not share.
std::string without_costs(const std::string& results) {
  auto json = nlohmann::ordered_json::parse(results);
  json.erase("stages");
  return json.dump();
}

// modules.csv without its column of seconds.
std::string without_seconds(const std::string& csv) {
  std::string text;
  auto rows = core::parse_csv(csv, "modules.csv");
  const auto column = std::find(rows.at(0).begin(), rows.at(0).end(), "seconds") - rows.at(0).begin();
  for (auto& row : rows) {
    row.erase(row.begin() + column);
    text += core::csv_line(row) + "\n";
  }
  return text;
}

class Killed : public ::testing::Test {
 protected:
  Killed() {
    program_.edit("seq_len: 64, windows: 2", "seq_len: 64, windows: 8");
    find_directory();
  }

  // "to run    runs/n/<id>  …" and lines behind it -> "runs/n/<id>".
  static std::string directory_in(const std::string& plan) {
    const size_t first = plan.find("runs/");
    return plan.substr(first, plan.find_first_of(" \n", first) - first);
  }

  void find_directory() {
    const std::string plan = program_.run({"c.yaml", "--dry-run"}).out;
    directory_ = directory_in(plan);
  }

  bool exists(const std::string& path) const { return fs::exists(program_.file(directory_ + "/" + path)); }
  std::string content(const std::string& path) const { return core::slurp(program_.file(directory_ + "/" + path)); }

  // All that must be equal.
  Files outcome() const {
    Files files;
    const fs::path root = program_.file(directory_);
    for (const auto& entry : fs::recursive_directory_iterator(root)) {
      const std::string path = entry.path().lexically_relative(root);
      if (entry.is_regular_file() && path != "log.txt" && path != ".lock") files[path] = core::slurp(entry.path());
    }
    files.at("results.json") = without_costs(files.at("results.json"));
    files.at("modules.csv") = without_seconds(files.at("modules.csv"));
    if (files.contains("qat_log.csv")) files["qat_log.csv"] = without_seconds(files["qat_log.csv"]);
    return files;
  }

  // What an uninterrupted run leaves; found once per configuration.
  Files expected() {
    static std::map<std::string, Files> all;  // by content of c.yaml
    Files& files = all[core::slurp(program_.file("c.yaml"))];
    if (files.empty()) {
      const Finished finished = program_.run({"c.yaml"});
      EXPECT_EQ(finished.code, 0) << finished.err;
      files = outcome();
      start_over();
    }
    return files;
  }

  void start_over() const { fs::remove_all(program_.file("runs")); }

  // Starts the program and sends it a signal some time after `path` of the run directory is there; "": after the start.
  Finished stopped_at(const std::string& path, int signal, milliseconds later = milliseconds(0)) {
    const pid_t pid = program_.start({"c.yaml"});
    until([&] { return path.empty() || exists(path); });
    std::this_thread::sleep_for(later);
    ::kill(pid, signal);
    return program_.wait(pid);
  }

  void goes_on_to(const Files& expected) {
    const Finished again = program_.run({"c.yaml"});
    ASSERT_EQ(again.code, 0) << again.err;
    const Files files = outcome();
    for (const auto& [path, content] : expected) {
      ASSERT_TRUE(files.contains(path)) << path << " is missing";
      EXPECT_TRUE(files.at(path) == content) << path << " differs";
    }
    for (const auto& [path, content] : files) EXPECT_TRUE(expected.contains(path)) << path << " is left over";
  }

  Program program_;
  std::string directory_;
};

TEST_F(Killed, AtTheFirstBlockInTheMiddleAndWhileMeasuringEndsBitIdentical) {
  const Files whole = expected();
  ASSERT_TRUE(whole.contains("checkpoint/block-00003.safetensors"));
  ASSERT_FALSE(whole.contains("progress/began.json"));
  for (const char* point : {"progress/block-00000.json", "progress/block-00002.json", "checkpoint/refrain.json"}) {
    SCOPED_TRACE(point);
    ASSERT_EQ(stopped_at(point, SIGKILL).code, -SIGKILL);
    ASSERT_FALSE(exists("results.json")) << "the signal came too late";
    goes_on_to(whole);
    EXPECT_THAT(content("log.txt"), HasSubstr("goes on with an interrupted run: "));
    start_over();
  }
}

TEST_F(Killed, WithStaticActivationsAndQuantizedEndsEndsBitIdentical) {
  program_.edit("quant: {method: rtn,",
                "calibration: {samples: 4, seq_len: 64}\nquant: {method: rtn, activation: {bits: 6, mode: static, "
                "granularity: per_tensor, range: mse}, rules: [{match: lm_head, weight: {bits: 3}}, {match: "
                "\"*.q_proj\", weight: {bits: 16}}],");
  find_directory();
  const Files whole = expected();
  for (const char* point : {"progress/block-00002.json", "checkpoint/refrain.json"}) {
    SCOPED_TRACE(point);
    ASSERT_EQ(stopped_at(point, SIGKILL).code, -SIGKILL);
    ASSERT_FALSE(exists("results.json")) << "the signal came too late";
    goes_on_to(whole);
    start_over();
  }
}

TEST_F(Killed, WithTransformsEndsBitIdentical) {
  program_.edit("quant: {method: rtn,",
                "calibration: {samples: 4, seq_len: 64}\ntransform: [{smoothquant: {}}]\nquant: {method: awq,");
  find_directory();
  const Files whole = expected();
  EXPECT_THAT(whole.at("modules.csv"), HasSubstr("smoothquant, awq alpha"));
  ASSERT_EQ(stopped_at("progress/block-00001.json", SIGKILL).code, -SIGKILL);
  ASSERT_FALSE(exists("results.json")) << "the signal came too late";
  goes_on_to(whole);
}

TEST_F(Killed, WithCorrectedTargetsEndsBitIdentical) {
  program_.edit(
      "quant: {method: rtn,",
      "calibration: {samples: 4, seq_len: 64, targets: output, true_sequential: true}\nquant: {method: gptq,");
  find_directory();
  const Files whole = expected();
  EXPECT_THAT(whole.at("modules.csv"), HasSubstr("corrected by 0."));
  ASSERT_EQ(stopped_at("progress/block-00001.json", SIGKILL).code, -SIGKILL);
  ASSERT_FALSE(exists("results.json")) << "the signal came too late";
  goes_on_to(whole);
}

TEST_F(Killed, WhileParametersAreTrainedEndsBitIdentical) {
  program_.edit(
      "quant: {method: rtn,",
      "calibration: {samples: 4, seq_len: 64}\nqat: {steps: 15, scope: both, batch: 2, seq_len: 64, save_every: "
      "5, eval_every: 5, held_out_windows: 2}\nquant: {method: rtn,");
  find_directory();
  const Files whole = expected();
  for (const char* point : {"progress/block-00001.json", "progress/qat.safetensors",
                            "checkpoint/block-00000.safetensors", "checkpoint/refrain.json"}) {
    SCOPED_TRACE(point);
    ASSERT_EQ(stopped_at(point, SIGKILL).code, -SIGKILL);
    ASSERT_FALSE(exists("results.json")) << "the signal came too late";
    goes_on_to(whole);
    start_over();
  }
  EXPECT_EQ(stopped_at("progress/qat.safetensors", SIGINT).code, 130);
  goes_on_to(whole);
}

TEST_F(Killed, TwiceInOneRunEndsBitIdentical) {
  const Files whole = expected();
  ASSERT_EQ(stopped_at("progress/block-00000.json", SIGKILL).code, -SIGKILL);
  ASSERT_EQ(stopped_at("progress/block-00001.json", SIGKILL).code, -SIGKILL);
  ASSERT_FALSE(exists("results.json"));
  goes_on_to(whole);
}

TEST_F(Killed, AFileThatWasNotRenamedYetIsRemoved) {
  const Files whole = expected();
  ASSERT_EQ(stopped_at("progress/block-00000.json", SIGKILL).code, -SIGKILL);
  program_.put(directory_ + "/checkpoint/.block-00001.safetensors.1-1.tmp", "half");
  goes_on_to(whole);
}

TEST_F(Killed, OfAnotherVersionItStartsAnew) {
  const Files whole = expected();
  ASSERT_EQ(stopped_at("progress/block-00000.json", SIGKILL).code, -SIGKILL);
  program_.edit("\"quantize\": ", "\"quantize\": 9", directory_ + "/progress/began.json");
  program_.put(directory_ + "/checkpoint/block-00000.safetensors", "of another version");
  goes_on_to(whole);
  EXPECT_THAT(content("log.txt"),
              testing::ContainsRegex("an interrupted run starts anew: quantize was 9[0-9]+, and is [0-9]+ now"));
}

TEST_F(Killed, ItGoesOnWithTheThreadsThatItWasBegunWith) {
  program_.edit("name: n", "name: n\nthreads: 1");
  const Files whole = expected();
  ASSERT_EQ(stopped_at("progress/block-00000.json", SIGKILL).code, -SIGKILL);
  program_.edit("threads: 1", "threads: 2");
  const Finished again = program_.run({"c.yaml"});
  ASSERT_EQ(again.code, 0) << again.err;
  EXPECT_EQ(outcome().at("windows.csv"), whole.at("windows.csv"));
  EXPECT_EQ(outcome().at("results.json"), whole.at("results.json")) << "which says 1 thread";
}

TEST_F(Killed, WithoutAKeptCheckpointEndsBitIdentical) {
  program_.edit("name: n", "name: n\ncheckpoint: discard");
  program_.edit("checkpoint: discard", "checkpoint: discard\nmodel: {path: tiny-qwen3, residency: stream}");
  program_.edit("model: {path: tiny-qwen3}\n", "");
  const std::string plan = program_.run({"c.yaml", "--dry-run"}).out;
  directory_ = directory_in(plan);
  const Files whole = expected();
  EXPECT_FALSE(whole.contains("checkpoint/refrain.json"));
  ASSERT_EQ(stopped_at("progress/block-00001.json", SIGKILL).code, -SIGKILL);
  ASSERT_TRUE(exists("checkpoint/block-00001.safetensors"));
  goes_on_to(whole);
}

// ---- interrupts ----

TEST_F(Killed, AnInterruptStopsAfterTheBlockAndTheRunGoesOnBehindIt) {
  const Files whole = expected();
  const Finished stopped = stopped_at("progress/block-00000.json", SIGINT);
  EXPECT_EQ(stopped.code, 130);
  EXPECT_THAT(stopped.err, HasSubstr("interrupted; finished runs are kept, the same command goes on\n"));
  ASSERT_FALSE(exists("results.json"));
  EXPECT_TRUE(exists("checkpoint/block-00000.safetensors"));
  goes_on_to(whole);
  EXPECT_THAT(content("log.txt"), HasSubstr("goes on with an interrupted run: "));
}

TEST_F(Killed, ASecondInterruptStopsAtOnce) {
  const Files whole = expected();
  const pid_t pid = program_.start({"c.yaml"});
  until([&] { return exists("progress/began.json"); });
  ::kill(pid, SIGTERM);  // two signals at the same time would be one
  until([&] { return program_.errors_of(pid).find("once more to stop at once") != std::string::npos; });
  ::kill(pid, SIGTERM);
  EXPECT_EQ(program_.wait(pid).code, 143);
  goes_on_to(whole);
}

// ---- a full disk ----

TEST_F(Killed, AFullDiskIsOneLineAndFinishedBlocksAreKept) {
  const Files whole = expected();
  size_t largest_block = 0;
  for (const auto& [path, content] : whole)
    if (path.starts_with("checkpoint/block-")) largest_block = std::max(largest_block, content.size());
  ASSERT_LT(largest_block, whole.at("checkpoint/ends.safetensors").size());
  ASSERT_EQ(program_.run({"c.yaml", "--set", "quant.method=none"}).code, 0);  // the baseline is larger: it is there
  rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit limit{largest_block + 1, old.rlim_max};  // for the program; what it prints is shorter
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const pid_t pid = program_.start({"c.yaml", "--quiet"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  const Finished full = program_.wait(pid);
  EXPECT_EQ(full.code, 2);
  EXPECT_EQ(full.err, directory_ +
                          "/checkpoint/ends.safetensors: cannot be written: the file grows beyond the size limit. Free "
                          "some space or choose another place.\n");
  EXPECT_TRUE(exists("progress/block-00003.json"));
  goes_on_to(whole);
}

TEST_F(Killed, HiddenStatesThatDoNotFitOnTheDiskAreOneLine) {
  rlimit old;
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old), 0);
  const rlimit limit{100'000, old.rlim_max};  // less than 8 windows of 64 tokens
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &limit), 0);
  const pid_t pid = program_.start({"c.yaml", "--quiet", "--set", "model.spill_above=0"});
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old), 0);
  const Finished full = program_.wait(pid);
  EXPECT_EQ(full.code, 2);
  EXPECT_EQ(full.err,
            "runs/.cache: a temporary file cannot be kept here: the file grows beyond the size limit. Free some space, "
            "choose another --out, or raise model.spill_above.\n");
}

// ---- anywhere ----

class LongKilled : public Killed {};

TEST_F(LongKilled, AtTwentyRandomMomentsEndsBitIdentical) {
  const auto begin = std::chrono::steady_clock::now();
  const Files whole = expected();
  const auto duration = std::chrono::duration_cast<milliseconds>(std::chrono::steady_clock::now() - begin);
  std::mt19937 random(2026);
  const auto draw = [&](int64_t most) { return std::uniform_int_distribution<int64_t>(0, most)(random); };
  std::map<std::string, int> where;
  for (int i = 0; i < 20; ++i) {
    // Half of them anywhere, half of them near the end of some block.
    const milliseconds moment(i % 2 == 0 ? draw(duration.count()) : draw(30));
    const std::string after = i % 2 == 0 ? "" : "progress/block-0000" + std::to_string(draw(5)) + ".json";
    SCOPED_TRACE("killed " + std::to_string(moment.count()) + " ms after " + after);
    stopped_at(after, SIGKILL, moment);
    ++where[exists("results.json")                ? "at the end"
            : exists("checkpoint/refrain.json")   ? "measuring"
            : exists("progress/block-00000.json") ? "quantizing"
            : exists("progress")                  ? "baseline"
                                                  : "before"];
    goes_on_to(whole);
    start_over();
  }
  for (const auto& [stage, count] : where) std::printf("killed %d times %s\n", count, stage.c_str());
}

}  // namespace
}  // namespace cli
