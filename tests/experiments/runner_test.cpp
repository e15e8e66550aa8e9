// What decides whether a number can be trusted: ids, finished runs, the baseline's cache, sweeps in any order.
#include "experiments/run/runner.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/io/csv.h"
#include "core/io/file_lock.h"
#include "core/io/files.h"
#include "experiments/run/run_point.h"
#include "experiments/run/stages.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

namespace fs = std::filesystem;

using ::testing::ElementsAre;
using ::testing::HasSubstr;

const std::string kGrid = "sweep.grid={quant.weight.bits: [4, 3, 2]}";

// Entries of <out>/.cache that hold baselines.
Strings baselines(const std::string& out) {
  Strings names;
  for (const auto& entry : fs::directory_iterator(out + "/.cache")) {
    const std::string name = entry.path().filename();
    if (entry.is_directory() && name.starts_with("baseline-")) names.push_back(name);
  }
  return names;
}

bool baseline_was_cached(const Json& row) {
  EXPECT_EQ(row["stages"][0]["name"], "baseline");
  return row["stages"][0]["cached"];
}

TEST(Resolved, SaysWhatTheRangeIs) {
  const Lab lab;
  const auto resolved = [&](const Strings& overrides) {
    return core::slurp(lab.directory(lab.row(overrides)) + "/resolved.yaml");
  };
  EXPECT_THAT(resolved({"quant.weight.bits=2"}), HasSubstr("# quant.weight.range: auto is mse at 2 bits\n"));
  EXPECT_THAT(resolved({"quant.weight.bits=4"}), HasSubstr("# quant.weight.range: auto is minmax at 4 bits\n"));
  for (const Strings& other : {Strings{"quant.weight.range=mse"}, Strings{"quant.method=none"}})
    EXPECT_THAT(resolved(other), testing::Not(HasSubstr("# quant.weight.range"))) << other[0];
}

// ---- the id of a run ----

// Small models, and other devices, have the same numbers everywhere.
TEST(Dtype, AutoIsBfloat16ForLargeModelsWhereACpuMultipliesIt) {
  constexpr int64_t kSmall = 135'000'000, kLarge = 1'100'000'000;
  EXPECT_EQ(dtype_for(kLarge, at::kCPU, true), "bfloat16");
  EXPECT_EQ(dtype_for(kLarge, at::kCPU, false), "float32");
  EXPECT_EQ(dtype_for(kLarge, at::kCUDA, true), "float32");
  EXPECT_EQ(dtype_for(kSmall, at::kCPU, true), "float32");
}

TEST(RunId, DependsOnWhatChangesResultsAndOnNothingElse) {
  const Lab lab;
  const std::string id = lab.id();
  EXPECT_EQ(lab.id({"out=" + lab.file("elsewhere"), "quiet=false", "threads=1"}), id);
  EXPECT_NE(lab.id({"quant.weight.bits=3"}), id);
  EXPECT_NE(lab.id({"measure.perplexity[0].windows=2"}), id);
  EXPECT_NE(lab.id({"model.dtype=float32"}), id) << "auto may mean something else elsewhere";
}

TEST(RunId, DependsOnTheContentOfModelTokenizerAndText) {
  const Lab lab;
  const std::string model = lab.copy_of_model();
  const std::string here = "model.path=" + model;
  const std::string id = lab.id({here});
  overwrite_tensor(model, "model.norm.weight", "\x01");
  const std::string changed = lab.id({here});
  EXPECT_NE(changed, id);
  core::write_atomically(model + "/config.json", core::slurp(model + "/config.json") + "\n");
  const std::string config = lab.id({here});
  EXPECT_NE(config, changed);
  core::write_atomically(model + "/tokenizer.json", core::slurp(model + "/tokenizer.json") + "\n");
  const std::string tokenizer = lab.id({here});
  EXPECT_NE(tokenizer, config);
  lab.put("text.txt", "Another text. " + core::slurp(lab.file("text.txt")));
  EXPECT_NE(lab.id({here}), tokenizer);
}

// ---- finished runs ----

TEST(Runner, AFinishedRunIsNotRunAgainUnlessForced) {
  const Lab lab;
  const Json first = lab.row();
  const std::string file = lab.directory(first) + "/results.json";
  core::write_atomically(file, "{\"schema\": 1, " + core::slurp(file).substr(1));  // same content, other bytes
  const std::string touched = core::slurp(file);
  EXPECT_EQ(lab.row(), first);
  EXPECT_EQ(core::slurp(file), touched) << "the second call wrote it";
  const Json forced = lab.row({}, /*force=*/true);
  EXPECT_NE(core::slurp(file), touched) << "force did not";
  EXPECT_EQ(without_costs(forced), without_costs(first));
}

TEST(Runner, AnUnfinishedRunIsRun) {
  const Lab lab;
  const Json first = lab.row();
  const std::string file = lab.directory(first) + "/results.json";
  for (const char* broken : {"", "{\"schema\": 1, \"na", "[1]", "{\"schema\": 2}"}) {
    core::write_atomically(file, broken);
    EXPECT_EQ(without_costs(lab.row()), without_costs(first)) << broken;
  }
}

// Every name of stages and of their parts in a row, once with each.
std::set<std::string> stages_of(const Json& row) {
  std::set<std::string> names;
  const Row parsed(row);
  for (const StageRecord& stage : parsed.stages()) {
    names.insert(stage.name);
    for (const auto& [part, version] : stage.parts) names.insert(part);
  }
  return names;
}

// The row as a program would have left it in which this stage had another version.
Json by_another_version(Json row, const std::string& name) {
  for (Json& stage : row["stages"]) {
    if (stage["name"] == name) stage["version"] = stage["version"].get<int>() + 1;
    if (stage.contains("parts") && stage["parts"].contains(name))
      stage["parts"][name] = stage["parts"][name].get<int>() + 1;
  }
  return row;
}

TEST(Runner, ARunOfAnotherVersionOfAnyStageIsMadeAnew) {
  const Lab lab;
  const Strings texts{"calibration.samples=2", "calibration.seq_len=64", "qat.steps=1", "qat.batch=1",
                      "qat.held_out_windows=1"};
  const auto with = [&](Strings more) {
    more.insert(more.end(), texts.begin(), texts.end());
    return more;
  };
  const Strings ranked =
      with({"replication.strategy=low_rank", "replication.select={policy: sensitivity, fraction: 0.1}",
            "transform=[{smoothquant: {}}]", "calibration.propagate_error=false", "qat.seq_len=32",
            "qat.train=[scale, low_rank]", "runtime.prefix.tokens=[5]",
            "measure.generation={corpus: tiny/valid, prompts: 2, prompt_tokens: 8, new_tokens: 4}",
            "measure.tasks={names: [tiny_facts], limit: 2}",
            "measure.trajectory={corpus: tiny/valid, seq_len: 16, windows: 1}",
            "measure.latency={contexts: [8], generate: 2, repetitions: 1}"});
  const Strings averaged = with({"replication.strategy=parallel", "replication.average=true", "qat.scope=block"});
  const Strings experts{"model.path=tiny-deepseek-moe", "quant.expert_bits={policy: optimal}", "calibration.samples=2",
                        "calibration.seq_len=64"};
  std::set<std::string> seen;
  for (const Strings& given : {ranked, averaged, experts}) {
    const Json first = lab.row(given);
    EXPECT_EQ(outdated(first), "");
    const std::string file = lab.directory(first) + "/results.json";
    Json stale;
    for (const std::string& name : stages_of(first)) {
      const int version = known_versions().at(name);
      stale = by_another_version(first, name);
      EXPECT_EQ(outdated(stale), fmt::format("{} was version {} and is {} now", name, version + 1, version));
      seen.insert(name);
    }
    stale["quantized"]["perplexity"][0]["nll"] = -1.0;
    core::write_atomically(file, stale.dump());
    EXPECT_EQ(without_costs(lab.row(given)), without_costs(first));
  }
  for (const auto& [name, version] : known_versions())
    EXPECT_TRUE(seen.contains(name)) << name << " was never recorded";
  Json unknown = lab.row(experts);
  unknown["stages"][0]["name"] = "divination";
  EXPECT_EQ(outdated(unknown), "its stage divination is no longer one");
}

TEST(Runner, ARunThatAnotherRunnerFinishedMeanwhileIsTakenOver) {
  const Lab lab;
  const Json first = lab.row();
  Resources resources(lab.out() + "/.cache");
  experiments::Run run = resolve(lab.points().front(), resources);
  identify(run, resources);
  const Ran taken = run_point(run, resources, /*force=*/false);  // as after the check that found nothing
  EXPECT_FALSE(taken.now);
  EXPECT_EQ(taken.row.json(), first);
  EXPECT_TRUE(run_point(run, resources, /*force=*/true).now);
}

TEST(Runner, TheIndexGetsOneLinePerRunAndTheSummaryOnePerRow) {
  const Lab lab;
  lab.run({kGrid});
  lab.run({kGrid});
  const auto index = core::parse_csv(core::slurp(lab.out() + "/index.csv"), "index.csv");
  EXPECT_THAT(index.at(0),
              ElementsAre("time", "name", "id", "model", "method", "bits_with_parameters", "measured_on", "result"));
  EXPECT_EQ(index.size(), 4u) << "a finished run is not entered again";
  EXPECT_EQ(index.at(3).at(5), "2.28125");
  const auto summary = core::parse_csv(core::slurp(lab.out() + "/lab/summary.csv"), "summary.csv");
  EXPECT_EQ(summary.size(), 5u) << "header, full precision, three rows";
  EXPECT_THAT(core::slurp(lab.out() + "/lab/summary.md"), HasSubstr("| 2 | 2.2812 |"));
}

// ---- the baseline ----

TEST(Baseline, IsMeasuredOnceForASweepAndOnceForEver) {
  const Lab lab;
  const Outcome outcome = lab.run({kGrid});
  ASSERT_EQ(outcome.rows.size(), 3u);
  EXPECT_FALSE(baseline_was_cached(outcome.rows[0].json()));
  EXPECT_TRUE(baseline_was_cached(outcome.rows[1].json()));
  EXPECT_TRUE(baseline_was_cached(outcome.rows[2].json()));
  EXPECT_EQ(outcome.rows[0]["baseline"], outcome.rows[2]["baseline"]);
  const Json later = lab.row({"quant.weight.bits=5"});
  EXPECT_TRUE(baseline_was_cached(later));
  EXPECT_EQ(later["baseline"], outcome.rows[0]["baseline"]);
  EXPECT_EQ(baselines(lab.out()).size(), 1u);
}

TEST(Baseline, OfAnotherModelTextOrMeasurementIsAnother) {
  const Lab lab;
  const std::string model = lab.copy_of_model(), here = "model.path=" + model;
  const Json first = lab.row({here});
  EXPECT_TRUE(baseline_was_cached(lab.row())) << "the same content under another name";
  overwrite_tensor(model, "model.layers.0.mlp.up_proj.weight", std::string(64, '\x3F'));
  const Json changed = lab.row({here});
  EXPECT_FALSE(baseline_was_cached(changed));
  EXPECT_NE(changed["baseline"], first["baseline"]);
  EXPECT_FALSE(baseline_was_cached(lab.row({"measure.perplexity[0].seq_len=32"})));
  EXPECT_FALSE(baseline_was_cached(lab.row({"measure.batch_tokens=64"})));
  EXPECT_FALSE(baseline_was_cached(lab.row({"model.dtype=bfloat16"})));
  lab.put("text.txt", "Another text. " + core::slurp(lab.file("text.txt")));
  EXPECT_FALSE(baseline_was_cached(lab.row()));
}

TEST(Baseline, ACacheEntryThatIsNotOursIsMeasuredAnew) {
  const Lab lab;
  const Json first = lab.row();
  const std::string entry = lab.out() + "/.cache/" + baselines(lab.out()).at(0);
  for (const char* file : {"/found.json", "/final_states"}) {
    const std::string content = core::slurp(entry + file);
    std::string other = content;
    other[other.size() / 2] ^= 1;
    for (const std::string& broken : {std::string(), content.substr(1), other}) {
      core::write_atomically(entry + file, broken);
      const Json again = lab.row({}, /*force=*/true);
      EXPECT_FALSE(baseline_was_cached(again)) << file;
      EXPECT_EQ(without_costs(again), without_costs(first)) << file;
    }
  }
  EXPECT_TRUE(baseline_was_cached(lab.row({}, /*force=*/true)));
}

TEST(Baseline, KeepsTheFinalStatesOfTheScoredPositionsOnly) {
  const Lab lab;
  lab.row();
  lab.row({"measure.perplexity[0].protocol=llama.cpp"});
  lab.row({"measure.kl=false"});
  std::vector<int64_t> bytes;
  for (const std::string& name : baselines(lab.out())) {
    const std::string file = lab.out() + "/.cache/" + name + "/final_states";
    bytes.push_back(fs::exists(file) ? static_cast<int64_t>(fs::file_size(file)) : 0);
  }
  const int64_t row = 128 * 4;  // a float32 state of width 128
  EXPECT_THAT(bytes, ::testing::UnorderedElementsAre(0, 3 * 63 * row, 3 * 31 * row));
}

// ---- sweeps ----

TEST(Sweep, InReversedOrderGivesIdenticalRows) {
  const Lab forward, backward;
  const std::vector<Row> rows = forward.run({kGrid}).rows;
  std::vector<Row> reversed = backward
                                  .run({"measure.perplexity[0].corpus=" + forward.file("text.txt"),
                                        "sweep.grid={quant.weight.bits: [2, 3, 4]}"})
                                  .rows;
  std::reverse(reversed.begin(), reversed.end());
  for (size_t i = 0; i < 3; ++i) EXPECT_EQ(without_costs(reversed.at(i)), without_costs(rows.at(i)));
  EXPECT_NE(Lab::nll_of(rows[0]), Lab::nll_of(rows[1]));
}

TEST(Sweep, RecordsAFailedPointAndRunsTheOthers) {
  const Lab lab;
  const std::string blocked = lab.out() + "/lab/" + lab.id({"quant.weight.bits=3"});
  core::create_directories(lab.out() + "/lab");
  core::write_atomically(blocked, "a file where the run directory belongs");
  const Outcome outcome = lab.run({kGrid});
  EXPECT_TRUE(outcome.failed);
  ASSERT_EQ(outcome.rows.size(), 3u);
  const std::string reason =
      blocked + ": this directory cannot be made: a part of the path is a file, not a directory. Choose another place.";
  EXPECT_EQ(outcome.rows[1], (Json{{"swept", {{"quant.weight.bits", "3"}}}, {"failed", reason}}));
  EXPECT_TRUE(outcome.rows[0].contains("quantized"));
  EXPECT_TRUE(outcome.rows[2].contains("quantized"));
  EXPECT_THAT(core::slurp(lab.out() + "/lab/summary.csv"), HasSubstr("failed: " + blocked));
}

TEST(Sweep, APointThatAnotherRunnerHoldsIsLeftToIt) {
  const Lab lab;
  const std::string held = lab.out() + "/lab/" + lab.id({"quant.weight.bits=4"});
  core::create_directories(held);
  const core::FileLock lock = core::FileLock::directory(held);
  const Outcome outcome = lab.run({kGrid});
  EXPECT_FALSE(outcome.failed);
  EXPECT_THAT(outcome.rows.at(0)["failed"].get<std::string>(), HasSubstr("held by another runner (pid "));
  EXPECT_FALSE(fs::exists(held + "/results.json"));
  EXPECT_TRUE(outcome.rows.at(1).contains("quantized"));
}

TEST(Runner, TheErrorOfASinglePointIsThrownAndLeavesNoRunDirectory) {
  const Lab lab;
  const std::string model = lab.copy_of_model();
  overwrite_tensor(model, "model.layers.3.mlp.down_proj.weight", "\x80\x7F");  // bfloat16 infinity
  const Strings overrides{"model.path=" + model};
  EXPECT_THAT(core::message_of([&] { lab.run(overrides); }), HasSubstr("model.layers.3.mlp.down_proj.weight"));
  EXPECT_FALSE(fs::exists(lab.out() + "/lab/" + lab.id(overrides)));
}

TEST(Runner, AnErrorKeepsARunDirectoryThatWasThereBefore) {
  const Lab lab;
  const std::string model = lab.copy_of_model();
  overwrite_tensor(model, "model.layers.3.mlp.down_proj.weight", "\x80\x7F");
  const Strings overrides{"model.path=" + model};
  const std::string directory = lab.out() + "/lab/" + lab.id(overrides);
  core::create_directories(directory);
  core::write_atomically(directory + "/notes.txt", "mine");
  EXPECT_THROW(lab.run(overrides), core::UserError);
  EXPECT_EQ(core::slurp(directory + "/notes.txt"), "mine");
}

}  // namespace
}  // namespace experiments
