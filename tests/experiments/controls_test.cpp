// Replicas beside the controls that could prove them wrong: which runs there are, what they store, and the table.
#include "experiments/config/controls.h"

#include <fmt/format.h>
#include <gmock/gmock.h>

#include <array>
#include <cmath>
#include <filesystem>

#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "experiments/results/control_table.h"
#include "experiments/results/kl_curve.h"
#include "replication/controls.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::SizeIs;

const std::string kAll = "replication.controls=[single, finer_groups, more_bits, low_rank, random_selection]";

Strings with(Strings given, const Strings& more) {
  given.insert(given.end(), more.begin(), more.end());
  return given;
}

const Strings kQuick{"calibration.samples=4", "calibration.seq_len=64", "checkpoint=discard"};
const Strings kReplica =
    with(kQuick, {"quant.weight={bits: 2, group_size: 64, symmetry: midrise, range: mse, range_search: {grid: 10}}",
                  "replication.strategy=scales", "replication.scales.replicas=[{}, {group_size: 32}]"});

Strings controls_of(const std::vector<Point>& points) {
  Strings names;
  for (const Point& point : points) names.push_back(point.control);
  return names;
}

TEST(Controls, ArePointsBesideTheReplica) {
  const Lab lab;
  const std::vector<Point> points = lab.points(
      with(kReplica, {kAll, "replication.select={policy: every}", "sweep.grid={quant.weight.bits: [2, 3]}"}));
  ASSERT_EQ(points.size(), 20u);
  EXPECT_THAT(controls_of({points.begin(), points.begin() + 10}),
              ElementsAre("single", "none", "finer_groups", "more_bits", "low_rank", "random_selection",
                          "random_selection", "random_selection", "random_selection", "random_selection"));
  EXPECT_EQ(points[9].group, 0);
  EXPECT_EQ(points[10].group, 1);
  EXPECT_EQ(points[9].spec.replication.draw, 5);
  for (const Point& point : points) EXPECT_THAT(point.spec.replication.controls, SizeIs(0));
  const std::vector<Point> alone = lab.points(with(kReplica, {"replication.select={policy: every}"}));
  ASSERT_EQ(alone.size(), 1u);
  Spec replica = points[1].spec, same = alone[0].spec, single = points[0].spec;
  EXPECT_EQ(core::to_yaml(core::to_node(replica)), core::to_yaml(core::to_node(same)));
  EXPECT_FALSE(single.replication.selected());
}

// What parity signs do not read has its scalar control: midrise of a searched range.
TEST(Controls, TheSingleReplicaOfAWindowCodeIsMidrise) {
  const Lab lab;
  const Strings given{"replication.strategy=parity_sign", "replication.controls=[single]",
                      "quant.weight.zero_point=int"};
  const quant::WeightConfig grid = lab.points(given).at(0).spec.quant.weight;
  EXPECT_EQ(grid.symmetry, "midrise");
  EXPECT_EQ(grid.range, "mse");
  EXPECT_EQ(grid.group_size, 64);
  // Where some linears only are replicated, the grid is configured for the others.
  EXPECT_EQ(lab.points(with(given, {"replication.select={policy: every}"})).at(0).spec.quant.weight.symmetry,
            "asymmetric");
}

// It is the plain run, whatever the options of the strategy: a sweep over them runs it once.
TEST(Controls, TheSingleReplicaIsSharedByAllReplicasOfASweep) {
  const Lab lab;
  const Outcome outcome =
      lab.run(with(kReplica, {"replication.controls=[single]",
                              "sweep.cases=[{replication.scales.replicas: [{}, {scale: 1.1}]}, {}]"}));
  ASSERT_EQ(outcome.rows.size(), 4u);
  EXPECT_EQ(outcome.rows[0]["id"], outcome.rows[2]["id"]);
  EXPECT_EQ(outcome.rows[0]["id"], lab.row({kReplica[0], kReplica[1], kReplica[2], kReplica[3]})["id"]);
  EXPECT_NE(outcome.rows[1]["id"], outcome.rows[3]["id"]);
}

TEST(Controls, EachSeedHasItsOwn) {
  const Lab lab;
  const std::vector<Point> points =
      lab.points(with(kReplica, {"replication.controls=[single, more_bits]", "seeds=[1, 2]"}));
  EXPECT_THAT(controls_of(points), ElementsAre("single", "single", "none", "none", "more_bits", "more_bits"));
  EXPECT_EQ(points[5].spec.seed, 2);
}

TEST(Controls, StoreNoMoreThanTheReplicaAndAtMostOnePercentLess) {
  const Lab lab;
  const Outcome outcome = lab.run(with(kReplica, {kAll, "replication.select={policy: sensitivity, fraction: 0.5}"}));
  ASSERT_EQ(outcome.rows.size(), 10u);
  EXPECT_FALSE(outcome.failed);
  const double replica = outcome.rows[1]["bits"]["with_parameters"],
               single = outcome.rows[0]["bits"]["with_parameters"];
  EXPECT_EQ(single, 2.25);
  EXPECT_GT(replica, 2.5);
  std::set<double> results;
  for (size_t i = 0; i < 5; ++i) {
    ASSERT_FALSE(outcome.rows[i].contains("failed")) << outcome.rows[i].json();
    EXPECT_TRUE(results.insert(Lab::nll_of(outcome.rows[i].json())).second) << i;
    if (i < 2) continue;
    const double bits = outcome.rows[i]["bits"]["with_parameters"];
    EXPECT_LE(bits, replica) << i;
    EXPECT_GE(bits, 0.99 * replica) << i;
  }
  EXPECT_THAT(outcome.controls.rows, SizeIs(5));
  EXPECT_EQ(outcome.controls.rows[4][1], "random_selection");
  EXPECT_EQ(std::count(outcome.controls.rows[4][11].begin(), outcome.controls.rows[4][11].end(), ' '), 4)
      << "one difference per draw: " << outcome.controls.rows[4][11];
  EXPECT_EQ(core::slurp(lab.out() + "/lab/controls.md"), outcome.controls.markdown());
  EXPECT_EQ(core::slurp(lab.out() + "/lab/controls.csv"), outcome.controls.csv());
}

TEST(Controls, ThatCannotBeBuiltAreToldAndNoFailure) {
  const Lab lab;
  const Outcome outcome =
      lab.run(with(kQuick, {"replication.strategy=parity_sign", "replication.parity_sign.window_bits=8", kAll}));
  EXPECT_FALSE(outcome.failed);
  ASSERT_EQ(outcome.rows.size(), 6u);
  for (size_t i = 2; i < 5; ++i)
    EXPECT_THAT(outcome.rows[i]["failed"].get<std::string>(), HasSubstr("at equal bits it is `single`")) << i;
  EXPECT_EQ(outcome.rows[5]["failed"],
            "no control: random_selection: the replica selects every unit, so another choice is the same one");
  ASSERT_THAT(outcome.controls.rows, SizeIs(5));
  EXPECT_THAT(outcome.controls.rows[1].back(), HasSubstr("no control: finer_groups: at equal bits it is `single`"));
  EXPECT_THAT(core::slurp(lab.out() + "/lab/summary.md"), HasSubstr("| no control: more_bits: "));
}

TEST(Controls, TheTableComparesWindowByWindow) {
  const Lab lab;
  const Outcome outcome = lab.run(with(kReplica, {"replication.controls=[single, more_bits]"}));
  const auto row = outcome.controls.rows.at(1);
  const double replica = Lab::nll_of(outcome.rows[1]), control = Lab::nll_of(outcome.rows[2]);
  EXPECT_EQ(row[0], "scales");
  EXPECT_EQ(row[7], fmt::format("{:.4f}", replica));
  EXPECT_EQ(row[8], fmt::format("{:.4f}", control));
  EXPECT_EQ(row[9], fmt::format("{:+.4f}", replica - control));
  EXPECT_GT(replica, control) << "two bits more, twice: " << row.back();
}

// A finished run that was never computed: two windows of ten tokens each, with these losses.
Row fake_run(const core::Scratch& scratch, const std::string& id, std::array<double, 2> nll, double at_4096) {
  std::filesystem::create_directory(scratch.file(id));
  const Json p{{"corpus", "text"}, {"protocol", "gptq"}, {"seq_len", 11},
               {"windows", 2},     {"tokens", 20},       {"token_hash", "f00d"}};
  const Json results{{"schema", 1},
                     {"id", id},
                     {"seed", 1},
                     {"swept", Json::object()},
                     {"stages", Json::array()},
                     {"bits", {{"with_parameters", 2.5}, {"at_4096", at_4096}}},
                     {"quantized", {{"perplexity", {p}}}}};
  scratch.put(id + "/results.json", results.dump());
  scratch.put(id + "/windows.csv", fmt::format("model,corpus,protocol,window,tokens,nll_sum,kl_sum,top1_agree\n"
                                               "quantized,text,gptq,0,10,{},,\nquantized,text,gptq,1,10,{},,\n",
                                               nll[0], nll[1]));
  return Row(results);
}

// The replica wins by bits that it saves at this width alone: every control that holds bits equal says so.
TEST(Controls, AVerdictAgainstEqualBitsNeedsThemAtAnotherWidthToo) {
  const core::Scratch scratch;
  for (const replication::Control& control : replication::controls()) {
    if (control.name == std::string(replication::kCurve)) continue;  // no run is compared with it
    Point replica, beside;
    replica.spec.seed = beside.spec.seed = 1;
    replica.spec.replication.strategy = "scales";
    replica.control = replication::ReplicationConfig::kNone;
    beside.control = control.name;
    const auto verdict = [&](double replica_at_4096) {
      const std::string name = control.name + std::to_string(replica_at_4096);
      const std::vector<Row> rows{fake_run(scratch, "r" + name, {10, 12}, replica_at_4096),
                                  fake_run(scratch, "c" + name, {20, 22}, 2.0)};
      return control_table({replica, beside}, rows, {scratch.file("r" + name), scratch.file("c" + name)})
          .rows.at(0)
          .back();
    };
    EXPECT_EQ(verdict(2.5), control.holds_bits ? "undecided at this width" : "the replica is better") << control.name;
    EXPECT_EQ(verdict(2.01), "the replica is better") << control.name;
  }
}

TEST(Controls, MistakesAreTold) {
  const Lab lab;
  const auto message = [&](const Strings& given) { return core::message_of([&] { lab.points(given); }); };
  EXPECT_EQ(message({"replication.controls=[single]"}),
            "--set replication.controls=[single]: replication.controls: controls stand beside a replica, and strategy: "
            "none makes none. Choose a strategy.");
  EXPECT_EQ(
      message({"replication.strategy=low_rank", "replication.controls=[single, single]"}),
      "--set replication.controls=[single, single]: replication.controls: single is there twice. Name each once.");
  EXPECT_THAT(message({"replication.strategy=low_rank", "replication.controls=[finer]"}),
              HasSubstr("replication.controls[0]: `finer` is not one of its values."));
  EXPECT_EQ(message({"replication.strategy=low_rank", "replication.draw=2"}),
            "--set replication.draw=2: replication.draw is read with control: random_selection only. Remove it.");
  EXPECT_EQ(message({"replication.strategy=low_rank", "replication.controls=[single]", "replication.control=low_rank"}),
            "--set replication.control=low_rank: replication.control: controls is given too. Keep one of them.");
}

TEST(Ladder, IdenticalReplicasAreTheSingleOneAndTheOthersAreNot) {
  const Lab lab;
  const Outcome outcome = lab.run(with(kReplica, {"replication.ladder=true", "replication.controls=[single]"}));
  Strings names;
  for (const Point& point : lab.points(with(kReplica, {"replication.ladder=true", "replication.controls=[single]"})))
    names.push_back(point.control);
  EXPECT_THAT(names, ElementsAre("single", "none", "identical", "jittered", "averaged"));
  ASSERT_EQ(outcome.rows.size(), 5u);
  const auto nll = [&](size_t i) { return Lab::nll_of(outcome.rows[i].json()); };
  EXPECT_NEAR(nll(2), nll(0), 1e-5);
  EXPECT_GT(std::abs(nll(3) - nll(0)), 1e-4);
  // Scales of midrise grids average exactly up to their float16 rounding: the theorem that such replicas collapse.
  EXPECT_NEAR(nll(4), nll(3), 5e-3);
  for (size_t i = 2; i < 5; ++i)
    EXPECT_EQ(outcome.rows[i]["hashes"]["codes"], outcome.rows[0]["hashes"]["codes"]) << "the same codes";
  EXPECT_EQ(outcome.rows[2]["bits"]["with_parameters"], 2.5);
  EXPECT_EQ(outcome.rows[4]["bits"]["with_parameters"], 2.25);
  EXPECT_THAT(outcome.controls.rows, SizeIs(4));
  EXPECT_EQ(core::message_of([&] {
              lab.points(with(kQuick, {"replication.strategy=low_rank", "replication.ladder=true"}));
            }),
            "--set replication.ladder=true: replication.ladder: strategy: low_rank has no ladder. Those that have one: "
            "parallel, "
            "scales.");
}

TEST(Ladder, OfBlocksEndsWithTheModelThatRunsThemOnce) {
  const Lab lab;
  const Strings given = with(kQuick, {"replication={strategy: parallel, controls: [single], ladder: true}"});
  const Outcome outcome = lab.run(given);
  ASSERT_EQ(outcome.rows.size(), 5u);
  const Json &single = outcome.rows[0], &identical = outcome.rows[2], &jittered = outcome.rows[3],
             &averaged = outcome.rows[4];
  EXPECT_NEAR(Lab::nll_of(identical), Lab::nll_of(single), 1e-5);
  EXPECT_GT(std::abs(Lab::nll_of(jittered) - Lab::nll_of(single)), 1e-4);
  EXPECT_NE(Lab::nll_of(averaged), Lab::nll_of(single)) << "half of the jitter is left";
  EXPECT_GT(jittered["mac_multiplier"], 1.5);
  EXPECT_EQ(averaged["mac_multiplier"], single["mac_multiplier"]);
  EXPECT_EQ(averaged["bits"]["with_parameters"], single["bits"]["with_parameters"]);
  EXPECT_EQ(averaged["hashes"]["codes"], single["hashes"]["codes"]);
}

TEST(Ladder, HasTrainedRungsBesideATrainedReplica) {
  const Lab lab;
  const std::string qat =
      "qat={steps: 4, batch: 2, warmup: 1, lr: 0.05, held_out: 0.3, held_out_windows: 2, keep: last}";
  for (const std::string strategy : {"scales", "parallel"}) {
    const Strings given = with(kQuick, {"quant.weight={bits: 2, zero_point: float}", qat,
                                        "replication={strategy: " + strategy + ", ladder: true}"});
    EXPECT_THAT(controls_of(lab.points(given)),
                ElementsAre("none", "identical", "jittered", "averaged", "identical_trained", "jittered_trained",
                            "averaged_trained"));
    const Outcome outcome = lab.run(given);
    ASSERT_EQ(outcome.rows.size(), 7u);
    ASSERT_FALSE(outcome.failed);
    for (size_t i = 1; i < 7; ++i) {
      EXPECT_EQ(outcome.rows[i]["qat"].is_null(), i < 4) << i;
      EXPECT_EQ(outcome.rows[i]["hashes"]["codes"], outcome.rows[0]["hashes"]["codes"]) << i;
      EXPECT_EQ(outcome.rows[i]["hashes"]["calibration_tokens"], outcome.rows[0]["hashes"]["calibration_tokens"]) << i;
    }
    const Json &apart = outcome.rows[5], &one = outcome.rows[6];
    EXPECT_EQ(one["qat"]["held_out_after"], apart["qat"]["held_out_after"]) << "the same training";
    EXPECT_NE(Lab::nll_of(one), Lab::nll_of(apart));
    EXPECT_LT(one["bits"]["with_parameters"], apart["bits"]["with_parameters"]);
    EXPECT_LT(one["mac_multiplier"], 1.3);
    EXPECT_THAT(outcome.controls.rows, SizeIs(6));
  }
}

// ---- eta ----

TEST(KlCurve, IsReadBetweenItsPoints) {
  const std::vector<std::pair<double, double>> curve{{3.25, 0.01}, {2.25, 0.16}, {2.5, 0.04}};
  const auto at = [&](double kl, double bits) { return kl_exchange(curve, kl, bits, 2.25); };
  EXPECT_NEAR(at(0.08, 2.75)->equal_bits, 2.375, 1e-12) << "half way from 0.16 to 0.04 in log KL";
  EXPECT_NEAR(at(0.08, 2.75)->gain_bits, 0.125, 1e-12);
  EXPECT_NEAR(*at(0.08, 2.75)->eta, 0.25, 1e-12);
  EXPECT_NEAR(at(0.02, 2.75)->equal_bits, 2.875, 1e-12);
  EXPECT_FALSE(at(0.08, 2.254)->eta) << "no extra bits";
  EXPECT_NEAR(at(0.16, 2.75)->gain_bits, 0, 1e-12);
  EXPECT_FALSE(at(0.2, 2.75)) << "worse than every point";
  EXPECT_FALSE(at(0.005, 2.75)) << "better than every point";
}

TEST(KlCurve, IsRunBesideTheReplicaAndPutsEtaIntoItsResults) {
  const Lab lab;
  const Outcome outcome = lab.run(with(kReplica, {"replication.controls=[single, curve]"}));
  ASSERT_EQ(outcome.rows.size(), 6u);
  std::vector<std::pair<double, double>> curve;
  for (size_t i = 2; i < 6; ++i)
    curve.emplace_back(outcome.rows[i]["bits"]["with_parameters"],
                       outcome.rows[i]["quantized"]["perplexity"][0]["kl_mean"]);
  EXPECT_THAT(curve[0].first, 2.125);
  EXPECT_THAT(curve[1].first, 2.25);
  EXPECT_THAT(curve[2].first, 2.5);
  EXPECT_THAT(curve[3].first, 3.25);
  const Json& replica = outcome.rows[1];
  const auto found =
      kl_exchange(curve, replica["quantized"]["perplexity"][0]["kl_mean"], replica["bits"]["with_parameters"], 2.25);
  ASSERT_TRUE(found);
  const Json written = Json::parse(core::slurp(lab.directory(replica) + "/results.json"));
  EXPECT_DOUBLE_EQ(written["replication"]["eta_kl"], *found->eta);
  EXPECT_DOUBLE_EQ(written["replication"]["gain_bits_kl"], found->gain_bits);
  EXPECT_THAT(outcome.controls.rows.at(1).back(), HasSubstr(fmt::format("gain {:+.3f} bits", found->gain_bits)));
  EXPECT_EQ(core::message_of([&] { lab.points(with(kReplica, {"replication.controls=[curve]"})); }),
            "--set replication.controls=[curve]: replication.controls: curve counts bits from those of `single`. Name "
            "it too.");
}

// The tiny model cut to the widths 96 and 192, whatever it then knows; its path.
std::string narrow_model(const Lab& lab) {
  Json json = Json::parse(core::slurp(kTinyModel + "/config.json"));
  json.update(
      {{"hidden_size", 96}, {"intermediate_size", 192}, {"num_attention_heads", 3}, {"num_key_value_heads", 1}});
  const std::string path = lab.copy_of_model("narrow");
  core::write_atomically(path + "/config.json", json.dump());
  const core::Checkpoint tiny = core::Checkpoint::open(kTinyModel);
  const std::map<int64_t, int64_t> narrower{{128, 96}, {256, 192}, {64, 32}};
  std::vector<core::TensorToWrite> tensors;
  for (const std::string& name : tiny.names()) {
    const core::TensorView& view = tiny.at(name);
    std::vector<int64_t> shape = view.shape;
    for (int64_t& length : shape) length = narrower.contains(length) ? narrower.at(length) : length;
    tensors.push_back({name, view.dtype, shape, view.data});
  }
  core::write_safetensors(path + "/model.safetensors", tensors);
  return path;
}

TEST(KlCurve, IsMadeOfTheGroupsThatDivideTheModelAndSaysWhich) {
  const Lab lab;
  const Strings given =
      with(kQuick, {"model.path=" + narrow_model(lab), "quant.weight={bits: 3, group_size: 32, symmetry: midrise}",
                    "replication={strategy: low_rank, low_rank: {rank: 2}, controls: [single, curve]}"});
  const Outcome outcome = lab.run(given);
  ASSERT_FALSE(outcome.failed);
  std::vector<std::pair<int64_t, int64_t>> grids;
  for (const Point& point : outcome.points) {
    if (point.control == replication::kCurve)
      grids.emplace_back(point.spec.quant.weight.bits, point.spec.quant.weight.group_size);
  }
  EXPECT_THAT(grids, ElementsAre(std::pair(3, 96), std::pair(3, 32), std::pair(4, 96)));
  EXPECT_THAT(outcome.controls.rows.at(1).back(), HasSubstr("(on 3 bits in groups of 96, 32, 4 bits in groups of 96)"));
  EXPECT_EQ(outcome.rows.back()["swept"]["quant.weight.group_size"], "96");
}

// Groups of a rule's own are nobody else's business.
TEST(KlCurve, DividesTheLinearsThatNoRuleGivesGroups) {
  const Lab lab;
  const std::string path = lab.copy_of_model();
  Json config = Json::parse(core::slurp(path + "/config.json"));
  config["intermediate_size"] = 100;
  core::write_atomically(path + "/config.json", config.dump());
  const Strings given{"model.path=" + path, "replication={strategy: low_rank, controls: [single, curve]}"};
  EXPECT_THAT(core::message_of([&] { lab.points(given); }),
              HasSubstr("replication.controls: curve needs one group size for all linears, and of 192, 128, 96, 64, 32 "
                        "none divides all of their input widths, 100, 128. Leave curve out"));
  for (const std::string groups : {"50", "-1"}) {
    const Strings ruled =
        with(given, {"quant.rules=[{match: \"role:down_proj\", weight: {group_size: " + groups + "}}]"});
    EXPECT_THAT(controls_of(lab.points(ruled)), ElementsAre("single", "none", "curve", "curve", "curve", "curve"));
  }
}

}  // namespace
}  // namespace experiments
