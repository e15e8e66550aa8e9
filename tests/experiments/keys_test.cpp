// Every key of a configuration does something: for each there is a test that shows a changed result, or for a key that
// is not part of a run's id the same result. A key that is declared without a test fails here.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <thread>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

namespace fs = std::filesystem;

// ---- the declared keys ----

struct Declared {
  std::string path;  // "measure.perplexity[].seq_len"
  bool identity;
};

void collect(core::Section& section, const std::string& path, bool identity, std::vector<Declared>& keys) {
  const core::Keys declared = core::keys_of(section);
  for (const core::Key& key : declared.all()) {
    const std::string name = core::join_path(path, key.name);
    const bool counts = identity && key.identity;
    if (core::Section* const* inner = std::get_if<core::Section*>(&key.target)) {
      collect(**inner, name, counts, keys);
    } else if (const auto* list = std::get_if<core::SectionList>(&key.target)) {
      collect(*list->make(), name + "[]", counts, keys);
    } else {
      keys.push_back({name, counts});
    }
  }
}

std::vector<Declared> declared_keys() {
  Spec spec;
  std::vector<Declared> keys;
  collect(spec, "", true, keys);
  return keys;
}

// ---- one proof per key ----

class Key : public ::testing::Test {
 protected:
  void changes_the_result(const std::string& assignment, const Strings& given = {}) {
    Strings changed = given;
    changed.push_back(assignment);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
    EXPECT_NE(lab_.nll(changed), lab_.nll(given));
  }
  // No two of the default and these values give the same result.
  void each_changes(const std::string& key, const Strings& values) {
    std::set<double> results{lab_.nll()};
    for (const std::string& value : values) EXPECT_TRUE(results.insert(lab_.nll({key + "=" + value})).second) << value;
  }
  // Up to the order of float32 sums, which follows the number of threads.
  void keeps_the_result(const std::string& assignment) {
    const Lab other;
    const Json before = lab_.row(),
               after = other.row({"measure.perplexity[0].corpus=" + lab_.file("text.txt"), assignment});
    EXPECT_EQ(after["id"], before["id"]);
    EXPECT_NEAR(Lab::nll_of(after), Lab::nll_of(before), 1e-5);
  }

  const Strings kSearched{"quant.weight.range=mse"}, kInputs{"quant.activation.bits=4"};
  // Another run, whose float32 sums have another order. At 4 bits, because a code at a tie may fall to the other side,
  // and at 2 bits the blocks behind it would take it further.
  void only_rounding(const std::string& assignment) {
    Strings given = calibrated_;
    given.push_back("quant.weight.bits=4");
    Strings changed = given;
    changed.push_back(assignment);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
    EXPECT_NEAR(lab_.nll(changed), lab_.nll(given), 0.02);
  }

  Lab lab_;
  const Strings calibrated_{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64"};
  const Strings adaround_{"quant.method=adaround", "quant.adaround.iterations=30", "quant.adaround.lr=0.1",
                          "calibration.samples=4", "calibration.seq_len=64"};
  const Strings hqq_{"quant.method=hqq", "quant.weight.zero_point=float"};
  const Strings signround_{"quant.method=signround", "quant.signround.iterations=6", "calibration.samples=4",
                           "calibration.seq_len=64"};
  const Strings at_once_{"quant.activation.bits=4", "quant.activation.granularity=per_tensor", "calibration.samples=4",
                         "calibration.seq_len=64"};
  const Strings awq_{"quant.method=awq", "calibration.samples=4", "calibration.seq_len=64"};
  const Strings awq_scales_{"transform=[{awq: {}}]", "calibration.samples=4", "calibration.seq_len=64"};
  const Strings static_ = [this] {
    Strings all = at_once_;
    all.push_back("quant.activation.mode=static");
    return all;
  }();
  static Strings one_by_one(Strings given) {  // windows
    given.push_back("calibration.batch_tokens=64");
    return given;
  }
  // Two replicas, of which the second is as given.
  void replica(const std::string& second, const std::string& variable = "quant.weight.zero_point=float") {
    const std::string list = "replication.scales.replicas=[{}, ";
    Strings given = measured("replication.strategy=scales");
    given.insert(given.end(), {variable, list + "{}]"});
    changes_the_result(list + second + "]", given);
  }
  // Of the inputs: set by the strategy, and by quant.activation itself.
  void input_replica(const std::string& second) {
    changes_the_result("quant.activation.replicas=[{}, " + second + "]", kInputs);
    Strings given = kInputs;
    given.insert(given.end(), {"replication.strategy=scales", "replication.scales.replicas=[{}, {activation: {}}]"});
    changes_the_result("replication.scales.replicas=[{}, {activation: " + second + "}]", given);
    EXPECT_EQ(lab_.nll({kInputs[0], "quant.activation.replicas=[{}, " + second + "]"}),
              lab_.nll({kInputs[0], given[1], "replication.scales.replicas=[{}, {activation: " + second + "}]"}));
  }
  // With codes of its own.
  void own_replica(const std::string& second) {
    changes_the_result("replication.scales.replicas=[{}, " + second + "]",
                       {"replication.strategy=scales", "replication.scales.own_codes=true"});
  }
  void own_codes() {
    Strings given = measured("replication.strategy=scales");
    given.emplace_back("replication.scales.replicas=[{}, {offset: 0.5}]");
    changes_the_result("replication.scales.own_codes=true", given);
    given.emplace_back("replication.scales.own_codes=true");
    EXPECT_EQ(lab_.row(given)["bits"]["codes"], 4.0);
  }
  // The replicas are one grid: fused, they are another run with the same result.
  void collapse() {
    const Strings given = measured("replication.strategy=scales");
    Strings apart = given;
    apart.push_back("replication.scales.collapse=false");
    EXPECT_NE(lab_.id(apart), lab_.id(given));
    EXPECT_NEAR(lab_.nll(apart), lab_.nll(given), 1e-4);
  }
  const Strings kDepth{"replication.strategy=depth", "replication.depth.gate_init=0.5"};
  const Strings kAdjacent{"replication.strategy=adjacent", "quant.weight.bits=2", "calibration.samples=4",
                          "calibration.seq_len=64"};
  // Blocks that fit are not billed as read again.
  void cache_bytes() {
    Strings fits = kDepth;
    fits.push_back("machine.cache_bytes=100000000");
    const Json again = lab_.row(kDepth), once = lab_.row(fits);
    EXPECT_LT(once["weight_bytes_per_token"], again["weight_bytes_per_token"]);
    EXPECT_EQ(Lab::nll_of(once), Lab::nll_of(again));
  }
  // On the mixture of experts of the test data; where that is not there, the key is only read.
  void experts(const std::string& assignment, Strings given = {}) {
    if (std::getenv("REFRAIN_DATA") == nullptr) return void(lab_.points({assignment}));
    given.insert(given.end(), {"model.path=wiki-deepseek-moe", "quant.method=gptq", "calibration.samples=4",
                               "calibration.seq_len=64"});
    changes_the_result(assignment, given);
  }
  const Strings kMixture{"model.path=tiny-deepseek-moe", "calibration.samples=4", "calibration.seq_len=64"};
  Strings with(const std::string& more) const {
    Strings given = kMixture;
    given.push_back(more);
    return given;
  }
  static Strings measured(const std::string& strategy) {
    return {strategy, "calibration.samples=4", "calibration.seq_len=64"};
  }

  const Strings row_column_{"replication.strategy=row_column", "quant.weight.group_size=-1", "calibration.samples=4",
                            "calibration.seq_len=64"};
  // A short training, whose last iterate stays.
  const Strings qat_{"qat.steps=3", "qat.batch=2",      "qat.seq_len=32",         "qat.warmup=1",
                     "qat.lr=0.1",  "qat.eval_every=1", "qat.held_out_windows=2", "qat.keep=last"};
  void training(const std::string& assignment, const Strings& more = {}) {
    Strings given = qat_;
    given.insert(given.end(), more.begin(), more.end());
    changes_the_result(assignment, given);
  }
  // The same iterates, of which something else is known or kept.
  void looks(const std::string& assignment, const std::string& field, const Strings& more = {}) {
    Strings given = qat_;
    given.insert(given.end(), more.begin(), more.end());
    Strings changed = given;
    changed.push_back(assignment);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
    EXPECT_NE(lab_.row(changed)["qat"]["parts"][0][field], lab_.row(given)["qat"]["parts"][0][field]);
  }
  void eval_every() {
    Strings seldom = qat_;
    seldom.push_back("qat.eval_every=3");
    const auto looks = [&](const Strings& given) {
      int64_t count = 0;
      for (const auto& row : core::parse_csv(core::slurp(lab_.directory(lab_.row(given)) + "/qat_log.csv"), "log"))
        count += row[3].empty() ? 0 : 1;
      return count - 1;  // the header
    };
    EXPECT_NE(lab_.id(seldom), lab_.id(qat_));
    EXPECT_EQ(looks(seldom), 2);
    EXPECT_EQ(looks(qat_), 4);
    EXPECT_EQ(lab_.nll(seldom), lab_.nll(qat_));
  }
  void recompute() {
    Strings again = qat_;
    again.push_back("qat.recompute=true");
    EXPECT_NE(lab_.id(again), lab_.id(qat_));
    EXPECT_NEAR(lab_.nll(again), lab_.nll(qat_), 1e-2);  // inputs of blocks are then made by the fused loops
  }
  void save_every() {
    const Lab other;
    Strings often = qat_;
    often.insert(often.end(), {"qat.save_every=1", "measure.perplexity[0].corpus=" + lab_.file("text.txt")});
    EXPECT_EQ(other.id(often), lab_.id(qat_));
    EXPECT_EQ(other.nll(often), lab_.nll(qat_));
  }

  const std::map<std::string, std::function<void()>> proofs_{
      {"qat.steps", [this] { training("qat.steps=5"); }},
      {"qat.method", [this] { training("qat.method=e2e_qp"); }},
      {"qat.train", [this] { training("qat.train=[scale]"); }},
      {"qat.scope", [this] { training("qat.scope=block"); }},
      {"qat.objective", [this] { training("qat.objective=ce"); }},
      {"qat.lr", [this] { training("qat.lr=0.05"); }},
      {"qat.warmup", [this] { training("qat.warmup=3"); }},
      {"qat.batch", [this] { training("qat.batch=3"); }},
      {"qat.clip_norm", [this] { training("qat.clip_norm=0.01"); }},
      {"qat.weight_decay", [this] { training("qat.weight_decay=0.5"); }},
      {"qat.corpus", [this] { training("qat.corpus=tiny/valid"); }},
      {"qat.seq_len", [this] { training("qat.seq_len=64"); }},
      {"qat.held_out", [this] { training("qat.held_out=0.5"); }},
      {"qat.held_out_corpus", [this] { training("qat.held_out_corpus=tiny/valid"); }},
      {"qat.held_out_windows", [this] { looks("qat.held_out_windows=5", "held_out_before"); }},
      {"qat.eval_every", [this] { eval_every(); }},
      {"qat.keep", [this] { looks("qat.keep=best", "kept_step", {"qat.lr=20"}); }},
      {"qat.patience", [this] { looks("qat.patience=1", "steps", {"qat.lr=20"}); }},
      {"qat.recompute", [this] { recompute(); }},
      {"qat.save_every", [this] { save_every(); }},
      {"replication.strategy",
       [this] {
         changes_the_result("replication.strategy=low_rank", {"calibration.samples=4", "calibration.seq_len=64"});
       }},
      {"replication.scales.replicas[].group_size", [this] { replica("{group_size: 32}"); }},
      {"replication.scales.replicas[].scale", [this] { replica("{scale: 1.1}"); }},
      {"replication.scales.replicas[].zero_point", [this] { replica("{zero_point: 0.25}"); }},
      {"replication.scales.replicas[].offset", [this] { replica("{offset: 0.25}"); }},
      {"replication.scales.replicas[].noise", [this] { replica("{noise: 0.1}"); }},
      {"replication.scales.replicas[].fit", [this] { replica("{fit: false}", "quant.weight.range=mse"); }},
      {"replication.scales.replicas[].jitter", [this] { replica("{jitter: 0.05}"); }},
      {"replication.scales.average",
       [this] {
         Strings given = measured("replication.strategy=scales");
         given.push_back("replication.scales.replicas=[{}, {scale: 1.1}]");
         Strings averaged = given;
         averaged.push_back("replication.scales.average=true");
         EXPECT_EQ(lab_.row(averaged)["bits"]["with_parameters"], 2.28125) << "one replica's";
         changes_the_result("replication.scales.average=true", given);
       }},
      {"replication.scales.collapse", [this] { collapse(); }},
      {"replication.scales.own_codes", [this] { own_codes(); }},
      {"replication.scales.replicas[].rounding", [this] { own_replica("{rounding: stochastic}"); }},
      {"replication.scales.replicas[].clip", [this] { own_replica("{clip: 0.8}"); }},
      {"replication.scales.replicas[].activation.clip.kind",
       [this] { input_replica("{clip: {kind: percentile, value: 99}}"); }},
      {"replication.scales.replicas[].activation.clip.value", [this] { input_replica("{clip: {value: 0.8}}"); }},
      {"replication.scales.replicas[].activation.scale", [this] { input_replica("{scale: 0.8}"); }},
      {"replication.scales.replicas[].activation.zero_point", [this] { input_replica("{zero_point: 0.5}"); }},
      {"replication.scales.replicas[].activation.offset", [this] { input_replica("{offset: 0.25}"); }},
      {"quant.activation.replicas[].clip.kind", [this] { input_replica("{clip: {kind: percentile, value: 98}}"); }},
      {"quant.activation.replicas[].clip.value", [this] { input_replica("{clip: {value: 0.7}}"); }},
      {"quant.activation.replicas[].scale", [this] { input_replica("{scale: 0.9}"); }},
      {"quant.activation.replicas[].zero_point", [this] { input_replica("{zero_point: 0.3}"); }},
      {"quant.activation.replicas[].offset", [this] { input_replica("{offset: 0.3}"); }},
      {"replication.token_adaptive.experts",
       [this] { changes_the_result("replication.token_adaptive.experts=2", {"replication.strategy=token_adaptive"}); }},
      {"replication.token_adaptive.spread",
       [this] {
         changes_the_result("replication.token_adaptive.spread=0.1", {"replication.strategy=token_adaptive"});
         EXPECT_EQ(lab_.nll({"replication.strategy=token_adaptive", "replication.token_adaptive.spread=0"}),
                   lab_.nll());
       }},
      {"replication.token_adaptive.gate_spread",
       [this] {
         changes_the_result("replication.token_adaptive.gate_spread=0.5", {"replication.strategy=token_adaptive"});
       }},
      {"replication.row_column.replicas",
       [this] { changes_the_result("replication.row_column.replicas=2", row_column_); }},
      {"replication.row_column.iterations",
       [this] { changes_the_result("replication.row_column.iterations=1", row_column_); }},
      {"replication.row_column.group_scale",
       [this] { changes_the_result("replication.row_column.group_scale=true", row_column_); }},
      {"replication.select.unit", [this] { selected("unit: block, policy: every, every: 2", "policy: every"); }},
      {"replication.select.policy", [this] { policies(); }},
      {"replication.select.list",
       [this] {
         selected("policy: list, list: [model.layers.0.mlp.up_proj]",
                  "policy: list, list: [model.layers.1.mlp.up_proj]");
       }},
      {"replication.select.every", [this] { selected("policy: every, every: 3", "policy: every"); }},
      {"replication.select.pattern",
       [this] { selected("policy: pattern, pattern: \"*.up_proj\"", "policy: pattern, pattern: \"*.q_proj\""); }},
      {"replication.select.fraction", [this] { selected("policy: random, fraction: 0.5", "policy: random"); }},
      {"replication.select.metric", [this] { metric(); }},
      {"replication.select.candidates",
       [this] {
         selected("policy: sensitivity, metric: kl, fraction: 0.05, candidates: 0",
                  "policy: sensitivity, metric: kl, fraction: 0.05, candidates: 2");
       }},
      {"replication.select.budget", [this] { selected("policy: random, budget: 0.2", "policy: random"); }},
      {"replication.controls", [this] { controls(); }},
      {"replication.ladder",
       [this] {
         Strings given = measured("replication.strategy=scales");
         given.push_back("replication.ladder=true");
         EXPECT_EQ(lab_.run(given).controls.rows.size(), 3u);
       }},
      {"replication.control",
       [this] { changes_the_result("replication.control=more_bits", measured("replication.strategy=low_rank")); }},
      {"replication.draw",
       [this] {
         Strings given = measured("replication.strategy=low_rank");
         given.insert(given.end(), {"replication.select={policy: every}", "replication.control=random_selection"});
         changes_the_result("replication.draw=2", given);
       }},
      {"replication.low_rank.rank",
       [this] { changes_the_result("replication.low_rank.rank=2", measured("replication.strategy=low_rank")); }},
      {"replication.low_rank.init",
       [this] { changes_the_result("replication.low_rank.init=zero", measured("replication.strategy=low_rank")); }},
      {"replication.parity_sign.replicas",
       [this] {
         changes_the_result("replication.parity_sign.replicas=3",
                            {"replication.strategy=parity_sign", "replication.parity_sign.window_bits=16"});
       }},
      {"replication.parity_sign.window_bits",
       [this] { changes_the_result("replication.parity_sign.window_bits=8", {"replication.strategy=parity_sign"}); }},
      {"replication.depth.span", [this] { changes_the_result("replication.depth.span=[1, 2]", kDepth); }},
      {"replication.depth.order", [this] { changes_the_result("replication.depth.order=span", kDepth); }},
      {"replication.depth.passes", [this] { changes_the_result("replication.depth.passes=3", kDepth); }},
      {"replication.depth.kv", [this] { changes_the_result("replication.depth.kv=own", kDepth); }},
      {"replication.depth.gate_init", [this] { changes_the_result("replication.depth.gate_init=0.25", kDepth); }},
      {"replication.parallel.replicas",
       [this] { changes_the_result("replication.parallel.replicas=3", {"replication.strategy=parallel"}); }},
      {"replication.parallel.jitter",
       [this] { changes_the_result("replication.parallel.jitter=0.1", {"replication.strategy=parallel"}); }},
      {"replication.adjacent.span", [this] { changes_the_result("replication.adjacent.span=3", kAdjacent); }},
      {"replication.adjacent.init", [this] { changes_the_result("replication.adjacent.init=leader", kAdjacent); }},
      {"replication.shifted.replicas",
       [this] { changes_the_result("replication.shifted.replicas=3", {"replication.strategy=shifted"}); }},
      {"name", [this] { name(); }},
      {"seed", [this] { seed(); }},
      {"seeds", [this] { seeds(); }},
      {"device", [this] { device(); }},
      {"model.path", [this] { model_path(); }},
      {"model.dtype", [this] { changes_the_result("model.dtype=bfloat16"); }},
      {"model.residency", [this] { residency(); }},
      {"model.spill_above", [this] { keeps_the_result("model.spill_above=0"); }},
      {"quant.method", [this] { changes_the_result("quant.method=none"); }},
      {"calibration.corpus", [this] { changes_the_result("calibration.corpus=tiny/valid", calibrated_); }},
      {"calibration.samples", [this] { changes_the_result("calibration.samples=3", calibrated_); }},
      {"calibration.seq_len", [this] { changes_the_result("calibration.seq_len=32", calibrated_); }},
      {"calibration.sampling", [this] { changes_the_result("calibration.sampling=sequential", calibrated_); }},
      {"calibration.propagate_error", [this] { changes_the_result("calibration.propagate_error=false", calibrated_); }},
      {"calibration.batch_tokens", [this] { only_rounding("calibration.batch_tokens=64"); }},
      {"quant.gptq.damp", [this] { changes_the_result("quant.gptq.damp=0.2", calibrated_); }},
      {"quant.gptq.block_size", [this] { only_rounding("quant.gptq.block_size=16"); }},
      {"quant.adaround.iterations", [this] { changes_the_result("quant.adaround.iterations=5", adaround_); }},
      {"quant.adaround.lr", [this] { changes_the_result("quant.adaround.lr=0.3", adaround_); }},
      {"quant.adaround.lambda", [this] { changes_the_result("quant.adaround.lambda=1", adaround_); }},
      {"quant.adaround.warm_up", [this] { changes_the_result("quant.adaround.warm_up=0.8", adaround_); }},
      {"quant.adaround.beta", [this] { changes_the_result("quant.adaround.beta=[4, 2]", adaround_); }},
      {"quant.hqq.lp_norm", [this] { changes_the_result("quant.hqq.lp_norm=0.3", hqq_); }},
      {"quant.hqq.beta", [this] { changes_the_result("quant.hqq.beta=200", hqq_); }},
      {"quant.hqq.kappa", [this] { changes_the_result("quant.hqq.kappa=2", hqq_); }},
      {"quant.hqq.iterations", [this] { changes_the_result("quant.hqq.iterations=2", hqq_); }},
      {"quant.hqq.early_stop", [this] { changes_the_result("quant.hqq.early_stop=false", hqq_); }},
      {"quant.ldlq.damp",
       [this] {
         changes_the_result("quant.ldlq.damp=0.2",
                            {"quant.method=ldlq", "calibration.samples=4", "calibration.seq_len=64"});
       }},
      {"quant.signround.iterations", [this] { changes_the_result("quant.signround.iterations=3", signround_); }},
      {"quant.signround.batch", [this] { changes_the_result("quant.signround.batch=2", signround_); }},
      {"quant.signround.lr", [this] { changes_the_result("quant.signround.lr=0.01", signround_); }},
      {"quant.signround.minmax_lr", [this] { changes_the_result("quant.signround.minmax_lr=0.01", signround_); }},
      {"quant.signround.tune_range", [this] { changes_the_result("quant.signround.tune_range=false", signround_); }},
      {"quant.signround.targets", [this] { changes_the_result("quant.signround.targets=same", signround_); }},
      {"quant.gptq.act_order", [this] { changes_the_result("quant.gptq.act_order=false", calibrated_); }},
      {"quant.gptq.static_groups", [this] { static_groups(); }},
      {"quant.gptq.gar", [this] { changes_the_result("quant.gptq.gar=true", calibrated_); }},
      {"quant.gptq.true_sequential", [this] { changes_the_result("quant.gptq.true_sequential=true", calibrated_); }},
      {"quant.awq.grid", [this] { changes_the_result("quant.awq.grid=3", awq_); }},
      {"quant.awq.duo_scaling", [this] { changes_the_result("quant.awq.duo_scaling=true", awq_); }},
      {"quant.awq.tokens", [this] { changes_the_result("quant.awq.tokens=1", one_by_one(awq_)); }},
      {"quant.awq.clip", [this] { changes_the_result("quant.awq.clip=false", awq_); }},
      {"quant.awq.clip_grid", [this] { changes_the_result("quant.awq.clip_grid=4", awq_); }},
      {"quant.awq.max_shrink", [this] { changes_the_result("quant.awq.max_shrink=0.1", awq_); }},
      {"transform[].awq.grid", [this] { changes_the_result("transform=[{awq: {grid: 3}}]", awq_scales_); }},
      {"transform[].awq.duo_scaling",
       [this] { changes_the_result("transform=[{awq: {duo_scaling: true}}]", awq_scales_); }},
      {"transform[].awq.tokens",
       [this] { changes_the_result("transform=[{awq: {tokens: 1}}]", one_by_one(awq_scales_)); }},
      {"transform[].smoothquant.alpha",
       [this] {
         Strings given = at_once_;
         given.push_back("transform=[{smoothquant: {}}]");
         changes_the_result("transform=[{smoothquant: {}}]", at_once_);
         changes_the_result("transform=[{smoothquant: {alpha: 0.8}}]", given);
       }},
      {"quant.router.bits", [this] { experts("quant.router.bits=2"); }},
      {"quant.expert_bits.policy",
       [this] {
         std::set<double> results;
         for (const char* policy : {"optimal", "random", "uniform"}) {
           Strings given = kMixture;
           given.push_back(std::string("quant.expert_bits={mean_bits: 2, policy: ") + policy + "}");
           EXPECT_TRUE(results.insert(lab_.nll(given)).second) << policy;
         }
       }},
      {"quant.expert_bits.mean_bits",
       [this] { changes_the_result("quant.expert_bits.mean_bits=3", with("quant.expert_bits={policy: optimal}")); }},
      {"quant.expert_bits.alpha",
       [this] { changes_the_result("quant.expert_bits.alpha=0", with("quant.expert_bits={policy: optimal}")); }},
      {"quant.expert_bits.beta",
       [this] {
         changes_the_result("quant.expert_bits.beta=0", with("quant.expert_bits={policy: optimal, alpha: 0}"));
       }},
      {"quant.expert_bits.choices",
       [this] { changes_the_result("quant.expert_bits.choices=[1, 4]", with("quant.expert_bits={policy: optimal}")); }},
      {"calibration.all_experts", [this] { experts("calibration.all_experts=true"); }},
      {"calibration.min_token_fraction", [this] { experts("calibration.min_token_fraction=0.3"); }},
      {"calibration.fallback",
       [this] { experts("calibration.fallback=pooled", {"calibration.min_token_fraction=0.3"}); }},
      {"quant.weight.bits", [this] { changes_the_result("quant.weight.bits=3"); }},
      {"quant.weight.group_size", [this] { changes_the_result("quant.weight.group_size=32"); }},
      {"quant.weight.symmetry",
       [this] {
         each_changes("quant.weight.symmetry", {"narrow", "span", "signed_full", "noclip", "midrise"});
       }},
      {"quant.weight.zero_point", [this] { changes_the_result("quant.weight.zero_point=float"); }},
      {"quant.weight.scale_dtype",
       [this] {
         each_changes("quant.weight.scale_dtype", {"bfloat16", "float32"});
       }},
      {"quant.weight.scale_bits", [this] { changes_the_result("quant.weight.scale_bits=4"); }},
      {"quant.weight.scale_group",
       [this] { changes_the_result("quant.weight.scale_group=1", {"quant.weight.scale_bits=3"}); }},
      {"quant.weight.range", [this] { changes_the_result("quant.weight.range=mse"); }},
      {"quant.weight.range_search.grid",
       [this] { changes_the_result("quant.weight.range_search.grid=10", kSearched); }},
      {"quant.weight.range_search.max_shrink",
       [this] { changes_the_result("quant.weight.range_search.max_shrink=0.1", kSearched); }},
      {"quant.weight.range_search.norm", [this] { changes_the_result("quant.weight.range_search.norm=1", kSearched); }},
      {"quant.weight.clip", [this] { changes_the_result("quant.weight.clip=0.9"); }},
      {"quant.weight.offset", [this] { changes_the_result("quant.weight.offset=0.25"); }},
      {"quant.weight.rounding", [this] { changes_the_result("quant.weight.rounding=stochastic"); }},
      {"quant.weight.noise.sigma", [this] { changes_the_result("quant.weight.noise.sigma=0.1"); }},
      {"quant.weight.noise.at",
       [this] { changes_the_result("quant.weight.noise.at=train", {"quant.weight.noise.sigma=0.1"}); }},
      {"quant.weight.codebook",
       [this] {
         each_changes("quant.weight.codebook", {"lloyd_max", "normal_float"});
       }},
      {"quant.weight.levels",
       [this] {
         changes_the_result("quant.weight.levels=[-1, -0.3, 0.3, 0.9]",
                            {"quant.weight.codebook=levels", "quant.weight.levels=[-1, -0.3, 0.3, 1]"});
       }},
      {"quant.activation.bits", [this] { changes_the_result("quant.activation.bits=4"); }},
      {"quant.activation.mode", [this] { changes_the_result("quant.activation.mode=static", at_once_); }},
      {"quant.activation.range", [this] { changes_the_result("quant.activation.range=mse", static_); }},
      {"quant.activation.granularity",
       [this] {
         changes_the_result("quant.activation.granularity=per_tensor", kInputs);
         changes_the_result("quant.activation.granularity=per_group", kInputs);
       }},
      {"quant.activation.group_size",
       [this] {
         changes_the_result("quant.activation.group_size=32",
                            {"quant.activation.bits=4", "quant.activation.granularity=per_group"});
       }},
      {"quant.activation.symmetry", [this] { changes_the_result("quant.activation.symmetry=midrise", kInputs); }},
      {"quant.activation.clip.kind",
       [this] { changes_the_result("quant.activation.clip={kind: percentile, value: 99}", kInputs); }},
      {"quant.activation.clip.value", [this] { changes_the_result("quant.activation.clip.value=0.8", kInputs); }},
      {"quant.activation.offset", [this] { changes_the_result("quant.activation.offset=0.25", kInputs); }},
      {"quant.activation.rounding", [this] { changes_the_result("quant.activation.rounding=stochastic", kInputs); }},
      {"quant.rules[].activation",
       [this] { changes_the_result("quant.rules=[{match: \"*.down_proj\", activation: {bits: 4}}]"); }},
      {"quant.rules[].match", [this] { rules(); }},
      {"quant.rules[].weight", [this] { rules(); }},
      {"measure.perplexity[].corpus", [this] { changes_the_result("measure.perplexity[0].corpus=tiny/test"); }},
      {"measure.perplexity[].protocol", [this] { protocol(); }},
      {"measure.perplexity[].seq_len", [this] { changes_the_result("measure.perplexity[0].seq_len=128"); }},
      {"measure.perplexity[].bos", [this] { bos(); }},
      {"measure.perplexity[].windows", [this] { changes_the_result("measure.perplexity[0].windows=2"); }},
      {"measure.batch_tokens", [this] { batch_tokens(); }},
      {"measure.kl", [this] { kl(); }},
      {"machine.cache_bytes", [this] { cache_bytes(); }},
      {"checkpoint", [this] { checkpoint(); }},
      {"sweep.grid", [this] { EXPECT_EQ(lab_.run({"sweep.grid={quant.weight.bits: [2, 3]}"}).rows.size(), 2u); }},
      {"sweep.cases",
       [this] { EXPECT_EQ(lab_.run({"sweep.cases=[{quant.weight.bits: 2}, {}, {}]"}).rows.size(), 3u); }},
      {"expect", [this] { keeps_the_result("expect={bits.codes: {equal: 2}}"); }},  // expect_test.cpp says what it does
      {"out", [this] { out(); }},
      {"threads", [this] { threads(); }},
      {"quiet", [this] { keeps_the_result("quiet=false"); }},
  };

 private:
  // Two selections differ.
  void selected(const std::string& one, const std::string& other) {
    Strings given = measured("replication.strategy=low_rank");
    given.push_back("replication.select={" + other + "}");
    changes_the_result("replication.select={" + one + "}", given);
  }
  void policies() {
    std::set<double> results;
    for (const char* policy : {"all", "every", "random", "sensitivity"}) {
      Strings given = measured("replication.strategy=low_rank");
      given.push_back(std::string("replication.select={policy: ") + policy + "}");
      EXPECT_TRUE(results.insert(lab_.nll(given)).second) << policy;
    }
  }
  void metric() {
    selected("policy: sensitivity, metric: kl, fraction: 0.05, candidates: 8", "policy: sensitivity, fraction: 0.05");
  }
  void controls() {
    Strings given = measured("replication.strategy=low_rank");
    const std::string id = lab_.id(given);
    given.push_back("replication.controls=[single]");
    const Outcome both = lab_.run(given);
    ASSERT_EQ(both.rows.size(), 2u);
    EXPECT_EQ(both.rows[1]["id"], id) << "the replica is the run that it is without controls";
    EXPECT_EQ(both.controls.rows.size(), 1u);
  }
  void static_groups() {
    Strings natural = calibrated_;
    natural.push_back("quant.gptq.act_order=false");
    changes_the_result("quant.gptq.static_groups=false", natural);
  }
  void residency() {
    keeps_the_result("model.residency=stream");
    keeps_the_result("model.residency=resident");
  }
  void name() {
    EXPECT_EQ(lab_.row({"name=a/b"})["name"], "a/b");
    EXPECT_TRUE(fs::exists(lab_.out() + "/a/b/summary.md"));
  }
  void out() {
    keeps_the_result("out=" + lab_.file("elsewhere"));
    EXPECT_TRUE(fs::exists(lab_.file("elsewhere/index.csv")));
  }
  void seed() {  // rounding to nearest draws no numbers: another run, with the same result
    EXPECT_NE(lab_.id({"seed=1"}), lab_.id());
    const Json row = lab_.row({"seed=1"});
    EXPECT_EQ(row["seed"], 1);
    EXPECT_EQ(lab_.row()["seed"], 42);
    EXPECT_EQ(Lab::nll_of(row), lab_.nll());
  }
  void seeds() {
    const Json alone = lab_.row({"seed=2"});
    const Outcome set = lab_.run({"seeds=[1, 2]"});
    ASSERT_EQ(set.rows.size(), 2u);
    EXPECT_EQ(set.rows[1]["id"], alone["id"]);
    EXPECT_EQ(set.rows[1]["swept"]["seed"], "2") << "the table of this call, whoever ran the point first";
    EXPECT_THAT(core::slurp(lab_.out() + "/lab/summary.md"), ::testing::HasSubstr("mean ± sd of 2"));
  }
  void device() {
    EXPECT_NE(lab_.id({"device=cpu"}), lab_.id());
    EXPECT_EQ(lab_.row({"device=cpu"})["machine"]["device"], "cpu");
    if (!at::hasCUDA()) {
      EXPECT_EQ(core::message_of([&] { lab_.row({"device=cuda"}); }),
                "--set device=cuda: device: this machine or this build of LibTorch has no CUDA. Use device: cpu.");
    }
  }
  void model_path() {
    const std::string model = lab_.copy_of_model();
    overwrite_tensor(model, "model.layers.0.mlp.up_proj.weight", std::string(64, '\x3F'));
    changes_the_result("model.path=" + model);
  }
  void rules() {
    changes_the_result("quant.rules=[{match: \"*.down_proj\", weight: {bits: 4}}]");
    const Strings one{"quant.rules=[{match: \"*.down_proj\", weight: {bits: 4}}]"};
    changes_the_result("quant.rules[0].match=role:q_proj", one);
    changes_the_result("quant.rules[0].weight={group_size: 16}", one);
    changes_the_result("quant.rules=[{match: lm_head, weight: {bits: 3}}]");
    changes_the_result("quant.rules=[{match: \"*embed_tokens\", weight: {bits: 3}}]");
  }
  void protocol() {
    changes_the_result("measure.perplexity[0].protocol=llama.cpp");
    EXPECT_EQ(lab_.row()["quantized"]["perplexity"][0]["protocol"], "gptq");
    EXPECT_EQ(
        core::message_of([&] { lab_.row({"measure.perplexity[0].protocol=gptp"}); }),
        "--set measure.perplexity[0].protocol=gptp: measure.perplexity[0].protocol: `gptp` is not one of its values. "
        "Did you mean `gptq`? Choices: gptq, llama.cpp.");
  }
  void kl() {
    EXPECT_NE(lab_.id({"measure.kl=false"}), lab_.id());
    const Json with = lab_.row()["quantized"]["perplexity"][0],
               without = lab_.row({"measure.kl=false"})["quantized"]["perplexity"][0];
    EXPECT_GT(with["kl_mean"].get<double>(), 0.0);
    EXPECT_FALSE(without.contains("kl_mean"));
    EXPECT_EQ(without["nll"], with["nll"]) << "the loss is the same bit for bit";
  }
  void bos() {
    const std::string model = lab_.copy_of_model("with_bos");
    core::write_atomically(model + "/tokenizer_config.json",
                           R"({"bos_token": "<|endoftext|>", "add_bos_token": false})");
    const Strings here{"model.path=" + model};
    changes_the_result("measure.perplexity[0].bos=once", here);
    changes_the_result("measure.perplexity[0].bos=window", here);
    const Strings llama{here[0], "measure.perplexity[0].protocol=llama.cpp"};
    changes_the_result("measure.perplexity[0].bos=window", llama);
    core::write_atomically(model + "/tokenizer_config.json",
                           R"({"bos_token": "<|endoftext|>", "add_bos_token": true})");
    EXPECT_EQ(lab_.row(here)["quantized"]["perplexity"][0]["bos"], "once");
  }
  // Batches change the order of float32 sums at most: the result is another run, with the same number.
  void batch_tokens() {
    EXPECT_NE(lab_.id({"measure.batch_tokens=64"}), lab_.id());
    EXPECT_NEAR(lab_.nll({"measure.batch_tokens=64"}), lab_.nll(), 1e-5);
  }
  void checkpoint() {
    const Json kept = lab_.row(), discarded = lab_.row({"checkpoint=discard"});
    EXPECT_TRUE(fs::exists(lab_.directory(kept) + "/checkpoint/refrain.json"));
    EXPECT_FALSE(fs::exists(lab_.directory(discarded) + "/checkpoint"));
    EXPECT_TRUE(discarded["bits"]["file"].is_null());
    EXPECT_EQ(discarded["quantized"], kept["quantized"]);
  }
  void threads() {
    at::set_num_threads(1);
    keeps_the_result("threads=1");
    at::set_num_threads(2);
  }
};

TEST_F(Key, EveryOneHasATestThatShowsWhatItDoes) {
  std::set<std::string> known;
  for (const Declared& key : declared_keys()) {
    SCOPED_TRACE(key.path);
    known.insert(key.path);
    const auto proof = proofs_.find(key.path);
    ASSERT_NE(proof, proofs_.end()) << "declared, but nothing here shows what it does";
    proof->second();
  }
  for (const auto& [path, proof] : proofs_) EXPECT_TRUE(known.contains(path)) << path << " is not declared any more";
}

TEST_F(Key, OnlyWhatCannotChangeAResultIsLeftOutOfTheId) {
  Strings outside;
  for (const Declared& key : declared_keys()) {
    if (!key.identity) outside.push_back(key.path);
  }
  EXPECT_THAT(outside, ::testing::ElementsAre("model.residency", "model.spill_above", "qat.save_every", "expect", "out",
                                              "threads", "quiet"));
}

// ---- what is written about the keys ----

TEST(Documentation, TheTableOfKeysIsTheDeclaredOne) {
  Spec spec;
  EXPECT_EQ(core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md"), core::key_table(spec))
      << "write it again: ./run_experiment --list keys > docs/keys.md";
}

TEST(Documentation, ListsEveryMethod) {
  const std::string table = core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/docs/keys.md");
  for (const auto& [name, method] : quant::make_methods()) {
    EXPECT_THAT(table, ::testing::HasSubstr("\n## `quant." + name + "`\n" + method->summary() + "\n"));
  }
}

TEST(Threads, TwoOfThemReallyRun) {
  std::mutex mutex;
  std::set<std::thread::id> seen;
  at::parallel_for(0, 2, 1, [&](int64_t begin, int64_t end) {
    EXPECT_EQ(end - begin, 1);
    const std::lock_guard<std::mutex> lock(mutex);
    seen.insert(std::this_thread::get_id());
  });
  EXPECT_EQ(seen.size(), 2u);
}

}  // namespace
}  // namespace experiments
