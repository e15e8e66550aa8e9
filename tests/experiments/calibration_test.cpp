// The calibration text: which tokens are taken, and what a mistake is told before the run.
#include "experiments/config/calibration.h"

#include <gmock/gmock.h>

#include <algorithm>

#include "core/io/csv.h"
#include "core/text/load_tokenizer.h"
#include "experiments/inputs/calibration_text.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

using core::message_of;

core::Windows calibrated_windows(const CalibrationConfig& config, uint64_t seed) {
  const auto ids = core::load_tokenizer(kTinyModel)->encode(core::load_corpus(config.corpus).text);
  return calibration_windows(config, ids, {.vocabulary = 1 << 20, .context = 4096}, seed);
}

CalibrationConfig config_of(int64_t samples, int64_t seq_len, const std::string& sampling) {
  CalibrationConfig config;
  config.samples = samples;
  config.seq_len = seq_len;
  config.sampling = sampling;
  return config;
}

TEST(CalibrationText, SequentialIsTheStartOfTheText) {
  const core::Windows windows = calibrated_windows(config_of(3, 16, "sequential"), 1);
  const auto ids = core::load_tokenizer(kTinyModel)->encode(core::load_corpus("tiny/train").text);
  EXPECT_EQ(windows.ids, std::vector<int32_t>(ids.begin(), ids.begin() + 48));
  EXPECT_EQ(windows.token_hash, calibrated_windows(config_of(3, 16, "sequential"), 2).token_hash);
}

TEST(CalibrationText, RandomWindowsAreStretchesOfTheTextThatTheSeedChooses) {
  const core::Windows windows = calibrated_windows(config_of(5, 16, "random"), 1);
  const auto ids = core::load_tokenizer(kTinyModel)->encode(core::load_corpus("tiny/train").text);
  ASSERT_EQ(windows.count, 5);
  for (int64_t n = 0; n < 5; ++n) {
    const auto window = windows.window(n);
    EXPECT_NE(std::search(ids.begin(), ids.end(), window.begin(), window.end()), ids.end()) << "window " << n;
  }
  EXPECT_EQ(windows.token_hash, calibrated_windows(config_of(5, 16, "random"), 1).token_hash);
  EXPECT_NE(windows.token_hash, calibrated_windows(config_of(5, 16, "random"), 2).token_hash);
}

TEST(CalibrationText, MistakesAreToldBeforeAnythingIsComputed) {
  const Lab lab;
  const auto mistake = [&](Strings overrides) {
    overrides.push_back("quant.method=gptq");
    return message_of([&] { lab.run(overrides); });
  };
  const std::string text = lab.put("short.txt", "a few words\n");
  EXPECT_THAT(mistake({"calibration.corpus=" + text}),
              ::testing::MatchesRegex(".*calibration.corpus: .*short.txt has [0-9]+ tokens, fewer than samples x "
                                      "seq_len = 64 x 256 = 16384. Lower them or name a longer text."));
  EXPECT_THAT(mistake({"calibration.corpus=tiny/trian"}), ::testing::HasSubstr("tiny/train"));
  EXPECT_THAT(mistake({"calibration.seq_len=100000"}), ::testing::HasSubstr("longer than the context of the model"));
  EXPECT_THAT(mistake({"calibration.propagate_error=false", "calibration.true_sequential=true"}),
              ::testing::HasSubstr("true_sequential: it measures inputs behind quantized linears"));
  const auto refused = [&](const Strings& overrides) { return message_of([&] { lab.run(overrides); }); };
  EXPECT_THAT(refused({"quant.method=none", "calibration.true_sequential=true"}),
              ::testing::HasSubstr("calibration.true_sequential: quant.method: none quantizes no linear"));
  EXPECT_THAT(refused({"quant.method=signround", "calibration.true_sequential=true"}),
              ::testing::HasSubstr("quant.method: signround encodes all linears of a block together"));
}

TEST(CoordinateDescent, MistakesAreToldBeforeAnythingIsComputed) {
  const Lab lab;
  const auto mistake = [&](Strings overrides) {
    overrides.push_back("quant.descent=1");
    return message_of([&] { lab.run(overrides); });
  };
  for (const char* method : {"none", "signround"}) {
    EXPECT_THAT(mistake({fmt::format("quant.method={}", method)}),
                ::testing::HasSubstr("quant.descent: it goes on from codes that a method has chosen linear by linear"));
  }
  EXPECT_THAT(mistake({"quant.weight.rounding=stochastic"}),
              ::testing::HasSubstr("quant.descent: it chooses the nearest codes"));
}

TEST(CalibrationTargets, MistakesAreToldBeforeAnythingIsComputed) {
  const Lab lab;
  const auto mistake = [&](Strings overrides) {
    overrides.insert(overrides.begin(), {"quant.method=gptq", "calibration.targets=output"});
    return message_of([&] { lab.run(overrides); });
  };
  using ::testing::HasSubstr;
  EXPECT_THAT(mistake({"calibration.targets=outputs"}), HasSubstr("Did you mean `output`?"));
  EXPECT_THAT(mistake({"calibration.target_share=1.5"}), HasSubstr("calibration.target_share is out of range: 1.5."));
  EXPECT_THAT(mistake({"calibration.target_damp=0"}),
              HasSubstr("calibration.target_damp is out of range: 0. Write a number in (0, 100]."));
  for (const char* key : {"target_share", "target_damp"}) {
    EXPECT_THAT(mistake({"calibration.targets=weight", fmt::format("calibration.{}=0.5", key)}),
                HasSubstr(fmt::format(
                    "calibration.{} is not read with targets: weight. Set targets: output, or remove it.", key)));
  }
  EXPECT_THAT(mistake({"calibration.propagate_error=false"}),
              HasSubstr("calibration.targets: output corrects what errors of earlier blocks do to the inputs, and "
                        "propagate_error: false measures inputs without any. Leave one of them out."));
  EXPECT_THAT(mistake({"quant.method=none"}),
              HasSubstr("calibration.targets: output says what is coded, and quant.method: none codes nothing."));
  Spec stored;
  EXPECT_THAT(message_of([&] {
                core::bind(
                    core::parse_yaml("{name: a, quant: {method: stored, stored: {file: codes.gguf}}, calibration: "
                                     "{targets: output}}",
                                     "a.yaml"),
                    stored);
              }),
              HasSubstr("a.yaml:1: calibration.targets: output says what is coded, and quant.method: stored has "
                        "its codes. Remove it."));
  EXPECT_THAT(mistake({"quant.method=signround"}),
              HasSubstr("calibration.targets: quant.method: signround fits the outputs of the block itself. Remove "
                        "targets: output, or choose another method."));
  for (const std::string strategy : {"depth: {span: [1, 2], calibrate: all_steps}", "adjacent: {from: mean}"}) {
    const std::string name = strategy.substr(0, strategy.find(':'));
    EXPECT_THAT(
        mistake({fmt::format("replication={{strategy: {}, {}}}", name, strategy)}),
        HasSubstr(fmt::format("calibration.targets: output corrects a weight by the inputs of its first "
                              "step, and {} counts further steps or blocks. Remove it, or calibrate on the first "
                              "one alone.",
                              name)));
  }
  EXPECT_THAT(lab.listing(), ::testing::Not(::testing::Contains("runs/lab"))) << "nothing was computed";
}

TEST(CalibrationTargets, AutoIsOutputWhereFewBitsAreCodedWithErrorFeedback) {
  const Lab lab;
  const auto settled = [&](const Strings& given) {
    const CalibrationConfig found = lab.points(given).front().spec.calibration;
    return std::pair(found.targets, found.true_sequential);
  };
  const std::pair<std::string, std::string> output{"output", "true"}, weight{"weight", "false"};
  for (const char* bits : {"2", "3"}) {
    const std::string given = fmt::format("quant.weight.bits={}", bits);
    EXPECT_EQ(settled({"quant.method=gptq", given}), output);
    EXPECT_EQ(settled({"quant.method=ldlq", given, "replication={strategy: shifted}", "quant.weight.group_size=64"}),
              output);
    EXPECT_EQ(settled({"quant.method=rtn", given}), weight);
    EXPECT_EQ(settled({"quant.method=none", given}), weight);
    EXPECT_EQ(settled({"quant.method=gptq", given, "calibration.propagate_error=false"}), weight);
    EXPECT_EQ(settled({"quant.method=gptq", given, "replication={strategy: depth, depth: {span: [1, 1]}}"}), output);
    EXPECT_EQ(settled({"quant.method=gptq", given, "replication={strategy: depth, depth: {calibrate: all_steps}}"}),
              weight);
    EXPECT_EQ(settled({"quant.method=gptq", given, "replication={strategy: adjacent, adjacent: {from: mean}}"}),
              weight);
    EXPECT_EQ(settled({"quant.method=gptq", given, "calibration.targets=weight"}), weight);
    EXPECT_EQ(settled({"quant.method=gptq", given, "calibration.true_sequential=false"}),
              std::pair(std::string("output"), std::string("false")));
  }
  EXPECT_EQ(settled({"quant.method=gptq", "quant.weight.bits=4"}), weight);
  EXPECT_EQ(settled({"quant.method=rtn", "calibration.targets=output"}), output);
}

// Else a strategy of blocks would be compared with controls whose targets are corrected.
TEST(CalibrationTargets, ControlsAreCodedAsTheirReplica) {
  const Lab lab;
  for (const Point& point :
       lab.points({"quant.method=gptq", "quant.weight.bits=2",
                   "replication={strategy: adjacent, adjacent: {from: mean}, controls: [single]}"}))
    EXPECT_EQ(point.spec.calibration.targets, "weight") << point.control;
}

TEST(CalibrationTargets, ShareZeroHasTheCodesOfWeights) {
  const Lab lab;
  const Strings gptq{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64",
                     "calibration.true_sequential=false", "calibration.targets=weight"};
  const auto with = [&](const Strings& more) {
    Strings all = gptq;
    all.insert(all.end(), more.begin(), more.end());
    return all;
  };
  Spec spec = lab.points(gptq).front().spec;
  EXPECT_THAT(core::to_yaml(core::to_node(spec.calibration)), ::testing::Not(::testing::HasSubstr("target_")));
  spec = lab.points(with({"calibration.targets=output"})).front().spec;
  EXPECT_THAT(core::to_yaml(core::to_node(spec.calibration)), ::testing::HasSubstr("target_damp: 0.05"));
  const auto codes = [&](const Strings& more) { return lab.row(with(more))["hashes"]["codes"]; };
  const Json plain = codes({});
  EXPECT_EQ(codes({"calibration.targets=output", "calibration.target_share=0"}), plain);
  EXPECT_NE(codes({"calibration.targets=output"}), plain);
}

// rtn alone asks for no calibration text; strategies code and fit the corrected weight.
TEST(CalibrationTargets, AreOfEveryMethodAndStrategy) {
  const Lab lab(shallow_model());
  const Strings shown{"calibration.samples=4", "calibration.seq_len=64", "calibration.true_sequential=false"};
  for (const Strings& given : std::vector<Strings>{
           {"quant.method=rtn"},
           {"quant.method=ldlq", "replication={strategy: shifted}"},
           {"quant.method=rtn", "replication={strategy: low_rank}"},
           {"quant.method=gptq", "replication={strategy: scales}"},
           {"quant.method=gptq", "replication={strategy: depth, depth: {span: [1, 1], gate_init: 0.5}}"}}) {
    Strings all = shown, corrected = shown;
    all.insert(all.end(), given.begin(), given.end());
    corrected.insert(corrected.end(), given.begin(), given.end());
    all.push_back("calibration.targets=weight");
    corrected.push_back("calibration.targets=output");
    const Json row = lab.row(corrected);
    EXPECT_NE(row["hashes"]["codes"], lab.row(all)["hashes"]["codes"]) << ::testing::PrintToString(given);
    EXPECT_THAT(core::slurp(lab.directory(row) + "/modules.csv"), ::testing::HasSubstr("corrected by 0."));
  }
}

TEST(CalibrationText, StaticActivationsNeedItToo) {
  const Lab lab;
  const auto mistake = [&](const std::string& corpus) {
    return message_of([&] {
      lab.run({"quant.activation={bits: 8, mode: static, granularity: per_tensor}", "calibration.corpus=" + corpus});
    });
  };
  const std::string text = lab.put("short.txt", "a few words\n");
  EXPECT_THAT(mistake(text), ::testing::HasSubstr("short.txt has "));
  EXPECT_THAT(mistake("no/such/text"), ::testing::HasSubstr("no/such/text"));
  EXPECT_THAT(lab.listing(), ::testing::Not(::testing::Contains("runs/lab"))) << "nothing was computed";
}

TEST(CalibrationText, IsReadOnlyWhenSomethingAsksForIt) {
  const Lab lab;
  const std::string missing = "calibration.corpus=no/such/text";
  EXPECT_TRUE(lab.row({missing})["hashes"]["calibration_tokens"].is_null());
  EXPECT_THAT(message_of([&] {
                lab.row({missing, "quant.weight.range=importance"});
              }),
              ::testing::HasSubstr("no/such/text"));
}

TEST(CalibrationText, ItsTokensAndWhatTheyShowedAreInTheResults) {
  const Lab lab;
  const Strings gptq{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64"};
  const Json row = lab.row(gptq);
  EXPECT_EQ(row["hashes"]["calibration_tokens"], calibrated_windows(config_of(4, 64, "random"), 42).token_hash);
  EXPECT_EQ(row["fallbacks"].size(), 0u);
  const auto modules = core::parse_csv(core::slurp(lab.directory(row) + "/modules.csv"), "modules.csv");
  const auto column = [&](const std::string& name) {
    return std::find(modules[0].begin(), modules[0].end(), name) - modules[0].begin();
  };
  for (const char* name : {"output_error", "input_absmax", "input_kurtosis", "input_outlier_columns"})
    EXPECT_NE(modules[1].at(column(name)), "") << name;
}

TEST(CalibrationText, TwoRunsAreBitIdentical) {
  const Lab a, b;
  const Strings gptq{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64"};
  EXPECT_EQ(a.row(gptq)["hashes"]["codes"], b.row(gptq)["hashes"]["codes"]);
}

}  // namespace
}  // namespace experiments
