// Every key of a configuration does something: for each there is a test that shows a changed result, or for a key that
// is not part of a run's id the same result. A key that is declared without a test fails here.
#include "tests/experiments/keys.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <cstdlib>
#include <filesystem>
#include <mutex>
#include <set>
#include <thread>

#include "core/io/files.h"

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

class Key : public ::testing::Test, protected Proof {
 protected:
  // Up to the order of float32 sums, which follows the number of threads.
  void keeps_the_result(const std::string& assignment) {
    const Lab other;
    const Json before = lab_.row(),
               after = other.row({"measure.perplexity[0].corpus=" + lab_.file("text.txt"), assignment});
    EXPECT_EQ(after["id"], before["id"]);
    EXPECT_NEAR(Lab::nll_of(after), Lab::nll_of(before), 1e-5);
  }

  const Strings kSearched{"quant.weight.range=mse"};
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
  const Strings kDepth{"replication.strategy=depth", "replication.depth.gate_init=0.5"};
  // Blocks that fit are not billed as read again.
  void cache_bytes() {
    Strings fits = kDepth;
    fits.push_back("machine.cache_bytes=100000000");
    const Json again = lab_.row(kDepth), once = lab_.row(fits);
    EXPECT_LT(once["weight_bytes_per_token"], again["weight_bytes_per_token"]);
    EXPECT_EQ(Lab::nll_of(once), Lab::nll_of(again));
  }
  // Packed products of float32 are the dense ones; those of int8 are the dense ones of the same int8 inputs, and these
  // inputs are not the original ones.
  void packed() {
    const Strings all_rows{"runtime.rows=1000000"}, int8{"quant.activation.bits=8", "quant.activation.symmetry=narrow"};
    const auto with = [](Strings given, const Strings& more) {
      given.insert(given.end(), more.begin(), more.end());
      return given;
    };
    const Json real = lab_.row(with(all_rows, {"runtime.linears=packed"}));
    EXPECT_EQ(real["runtime"]["linears"], "packed");
    EXPECT_GT(real["runtime"]["packed"], 0);
    EXPECT_TRUE(real["runtime"]["dense"].empty());
    EXPECT_NEAR(Lab::nll_of(real), lab_.nll(), 1e-5);
    const double integer = lab_.nll(with(all_rows, {"runtime.linears=packed_int8"}));
    EXPECT_NEAR(integer, lab_.nll(int8), 1e-3);
    EXPECT_NE(integer, lab_.nll());
  }
  void rows() {
    const Strings packed{"runtime.linears=packed"};
    const Json by_tile = lab_.row(packed), by_code = lab_.row({packed[0], "runtime.rows=1000000"});
    EXPECT_NE(by_tile["id"], by_code["id"]);
    EXPECT_EQ(by_code["runtime"]["rows"], 1000000);
    EXPECT_NEAR(Lab::nll_of(by_code), Lab::nll_of(by_tile), 1e-5);
    EXPECT_NE(Lab::nll_of(by_code), Lab::nll_of(by_tile));  // sums in another order
  }
  // On the mixture of experts of the test data; where that is not there, the key is only read.
  void experts(const std::string& assignment, Strings given = {}) {
    if (std::getenv("REFRAIN_DATA") == nullptr) return void(lab_.points({assignment}));
    given.insert(given.end(), {"model.path=wiki-deepseek-moe", "quant.method=gptq", "calibration.samples=4",
                               "calibration.seq_len=64"});
    changes_the_result(assignment, given);
  }
  const Strings kMixture{"model.path=tiny-deepseek-moe", "calibration.samples=4", "calibration.seq_len=64"};
  Strings mixture(const std::string& more) const {
    Strings given = kMixture;
    given.push_back(more);
    return given;
  }
  const Proofs proofs_{
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
       [this] { changes_the_result("quant.expert_bits.mean_bits=3", mixture("quant.expert_bits={policy: optimal}")); }},
      {"quant.expert_bits.alpha",
       [this] { changes_the_result("quant.expert_bits.alpha=0", mixture("quant.expert_bits={policy: optimal}")); }},
      {"quant.expert_bits.beta",
       [this] {
         changes_the_result("quant.expert_bits.beta=0", mixture("quant.expert_bits={policy: optimal, alpha: 0}"));
       }},
      {"quant.expert_bits.choices",
       [this] {
         changes_the_result("quant.expert_bits.choices=[1, 4]", mixture("quant.expert_bits={policy: optimal}"));
       }},
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
      {"measure.generation.corpus", [this] { generation_corpus(); }},
      {"measure.generation.prompts", [this] { generation("measure.generation.prompts=6"); }},
      {"measure.generation.prompt_tokens", [this] { generation("measure.generation.prompt_tokens=24"); }},
      {"measure.generation.new_tokens", [this] { generation("measure.generation.new_tokens=12"); }},
      {"measure.latency.contexts", [this] { latency("contexts", "[4, 8]", "/contexts/1"); }},
      {"measure.latency.generate", [this] { latency("generate", "3", "/generate"); }},
      {"measure.latency.repetitions", [this] { latency("repetitions", "3", "/repetitions"); }},
      {"runtime.linears", [this] { packed(); }},
      {"runtime.rows", [this] { rows(); }},
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
  // Both models write; other prompts, another text.
  void generation(const std::string& assignment) {
    const Strings given = written();
    Strings changed = given;
    changed.push_back(assignment);
    const Json before = lab_.row(given), after = lab_.row(changed);
    EXPECT_NE(after["id"], before["id"]);
    EXPECT_NE(after["quantized"]["generation"], before["quantized"]["generation"]);
    EXPECT_EQ(Lab::nll_of(after), Lab::nll_of(before));
  }
  Strings written() const {
    return {"measure.generation={corpus: " + lab_.file("text.txt") + ", prompts: 4, prompt_tokens: 16, new_tokens: 8}"};
  }
  void generation_corpus() {
    const std::string other = lab_.put("other.txt", std::string(60, 'x') + core::slurp(lab_.file("text.txt")));
    generation("measure.generation.corpus=" + other);
  }
  // Times differ from run to run; what was timed does not.
  void latency(const std::string& key, const std::string& value, const std::string& field) {
    const Strings given{"measure.latency={contexts: [4], generate: 2, repetitions: 2}"};
    Strings changed = given;
    changed.push_back("measure.latency." + key + "=" + value);
    const Json before = lab_.row(given)["quantized"]["latency"], after = lab_.row(changed)["quantized"]["latency"];
    const Json::json_pointer where(field);
    EXPECT_NE(after[where], before[where]);
    EXPECT_NE(lab_.id(changed), lab_.id(given));
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
  Proofs all = proofs_of_replication();
  all.insert(proofs_.begin(), proofs_.end());
  std::set<std::string> known;
  for (const Declared& key : declared_keys()) {
    SCOPED_TRACE(key.path);
    known.insert(key.path);
    const auto proof = all.find(key.path);
    ASSERT_NE(proof, all.end()) << "declared, but nothing here shows what it does";
    proof->second();
  }
  for (const auto& [path, proof] : all) EXPECT_TRUE(known.contains(path)) << path << " is not declared any more";
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
