// The proofs of what is under replication and qat, and of replicas of inputs.
#include "core/io/csv.h"
#include "core/io/files.h"
#include "tests/experiments/keys.h"

namespace experiments {

namespace {

class ReplicationProof : public Proof {
 public:
  Proofs all() {
    return {
        {"qat.steps", [this] { training("qat.steps=5"); }},
        {"qat.method", [this] { each_choice_differs("qat.method", both_); }},
        {"qat.train", [this] { training("qat.train=[scale]"); }},
        {"qat.codes_lr", [this] { changes_the_result("qat.codes_lr=0.3", codes_); }},
        {"qat.encode_every", [this] { changes_the_result("qat.encode_every=1", windows_); }},
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
        {"replication.average",
         [this] {
           Strings given = measured("replication.strategy=scales");
           given.insert(given.end(),
                        {"replication.scales.replicas=[{}, {scale: 1.1}]", "replication.scales.collapse=false"});
           Strings averaged = given;
           averaged.push_back("replication.average=true");
           EXPECT_EQ(lab_.row(averaged)["bits"]["with_parameters"], 2.28125) << "one replica's";
           changes_the_result("replication.average=true", given);
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
         [this] {
           changes_the_result("replication.token_adaptive.experts=2", {"replication.strategy=token_adaptive"});
         }},
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
        {"replication.row_column.jitter",
         [this] {
           Strings given = row_column_;
           given.push_back("replication.row_column.replicas=2");
           changes_the_result("replication.row_column.jitter=0.1", given);
         }},
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
                              {"replication.strategy=parity_sign", "replication.parity_sign.window_bits=16",
                               "replication.select={policy: list, list: [model.layers.0.self_attn.k_proj]}"});
         }},
        {"replication.parity_sign.window_bits",
         [this] { changes_the_result("replication.parity_sign.window_bits=8", {"replication.strategy=parity_sign"}); }},
        {"replication.depth.span", [this] { changes_the_result("replication.depth.span=[1, 2]", kDepth); }},
        {"replication.depth.order", [this] { changes_the_result("replication.depth.order=span", kDepth); }},
        {"replication.depth.passes", [this] { changes_the_result("replication.depth.passes=3", kDepth); }},
        {"replication.depth.kv", [this] { changes_the_result("replication.depth.kv=own", kDepth); }},
        {"replication.depth.part", [this] { each_choice_differs("replication.depth.part", kDepth); }},
        {"replication.depth.damped",
         [this] { changes_the_result("replication.depth.damped=true", {"replication.strategy=depth"}); }},
        {"replication.depth.gate_init", [this] { changes_the_result("replication.depth.gate_init=0.25", kDepth); }},
        {"replication.depth.jitter",
         [this] {
           Strings given = kDepth;
           given.push_back("replication.depth.jitter=0.1");
           EXPECT_NE(lab_.nll(given), lab_.nll(kDepth));
         }},
        {"replication.depth.calibrate",
         [this] {
           Strings given = calibrated_;
           given.insert(given.end(), kDepth.begin(), kDepth.end());
           changes_the_result("replication.depth.calibrate=all_steps", given);
         }},
        {"replication.parallel.replicas",
         [this] { changes_the_result("replication.parallel.replicas=3", {"replication.strategy=parallel"}); }},
        {"replication.parallel.jitter",
         [this] { changes_the_result("replication.parallel.jitter=0.1", {"replication.strategy=parallel"}); }},
        {"replication.adjacent.span", [this] { changes_the_result("replication.adjacent.span=3", kAdjacent); }},
        {"replication.adjacent.init", [this] { changes_the_result("replication.adjacent.init=leader", kAdjacent); }},
        {"replication.adjacent.from", [this] { changes_the_result("replication.adjacent.from=mean", kAdjacent); }},
        {"replication.shifted.replicas",
         [this] { changes_the_result("replication.shifted.replicas=3", {"replication.strategy=shifted"}); }},
    };
  }

 private:
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
  const Strings kAdjacent{"model.path=tiny-qwen3", "replication.strategy=adjacent", "quant.weight.bits=2",
                          "calibration.samples=4", "calibration.seq_len=64"};
  static Strings measured(const std::string& strategy) {
    return {strategy, "calibration.samples=4", "calibration.seq_len=64"};
  }

  const Strings row_column_{"replication.strategy=row_column", "quant.weight.group_size=-1", "calibration.samples=4",
                            "calibration.seq_len=64"};
  // A short training, whose last iterate stays.
  const Strings both_{"qat.steps=3",   "qat.batch=2",    "qat.seq_len=32",        "qat.warmup=1",          "qat.lr=0.1",
                      "qat.keep=last", "qat.scope=both", "calibration.samples=4", "calibration.seq_len=32"};
  const Strings codes_{"qat.steps=3",           "qat.batch=2",           "qat.warmup=1",    "qat.lr=0.1",
                       "qat.keep=last",         "qat.codes_lr=0.6",      "qat.scope=block", "qat.train=[codes, scale]",
                       "calibration.samples=4", "calibration.seq_len=32"};
  const Strings windows_ = [this] {
    Strings all = codes_;
    all.insert(all.end(), {"quant.method=ldlq", "replication.strategy=parity_sign", "qat.encode_every=3"});
    return all;
  }();
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
    const Lab other(shallow_model());
    Strings often = qat_;
    often.insert(often.end(), {"qat.save_every=1", "measure.perplexity[0].corpus=" + lab_.file("text.txt")});
    EXPECT_EQ(other.id(often), lab_.id(qat_));
    EXPECT_EQ(other.nll(often), lab_.nll(qat_));
  }

  // Two selections differ.
  void selected(const std::string& one, const std::string& other) {
    Strings given = measured("replication.strategy=low_rank");
    given.push_back("replication.select={" + other + "}");
    changes_the_result("replication.select={" + one + "}", given);
  }
  void policies() {
    Strings given = measured("replication.strategy=low_rank");
    given.push_back("model.path=tiny-deepseek-moe");
    each_choice_differs("replication.select.policy", given,
                        {{"list", {"replication.select.list=[model.layers.0.mlp.up_proj]"}},
                         {"pattern", {"replication.select.pattern=\"*.up_proj\""}},
                         {"frequency", {"replication.select.unit=expert"}}});
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
};

}  // namespace

Proofs proofs_of_replication() { return proofs_of<ReplicationProof>(); }

}  // namespace experiments
