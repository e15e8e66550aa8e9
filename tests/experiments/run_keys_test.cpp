// The proofs of what is run, measured and kept: of the keys that are not under quant, calibration, transform,
// replication, qat and exports.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <cmath>
#include <filesystem>
#include <set>

#include "core/io/files.h"
#include "core/text/load_tokenizer.h"
#include "tests/experiments/keys.h"

namespace experiments {

namespace {

namespace fs = std::filesystem;

class RunProof : public Proof {
 public:
  Proofs all() {
    return {
        {"name", [this] { name(); }},
        {"seed", [this] { seed(); }},
        {"seeds", [this] { seeds(); }},
        {"device", [this] { device(); }},
        {"model.path", [this] { model_path(); }},
        {"model.dtype", [this] { changes_the_result("model.dtype=bfloat16"); }},
        {"model.residency", [this] { residency(); }},
        {"model.spill_above", [this] { keeps_the_result("model.spill_above=0"); }},
        {"measure.perplexity[].corpus", [this] { changes_the_result("measure.perplexity[0].corpus=tiny/test"); }},
        {"measure.perplexity[].protocol", [this] { protocol(); }},
        {"measure.perplexity[].seq_len", [this] { changes_the_result("measure.perplexity[0].seq_len=128"); }},
        {"measure.perplexity[].bos", [this] { bos(); }},
        {"measure.perplexity[].windows", [this] { changes_the_result("measure.perplexity[0].windows=2"); }},
        {"measure.perplexity[].windows_from",
         [this] { changes_the_result("measure.perplexity[0].windows_from=spread"); }},
        {"measure.batch_tokens", [this] { batch_tokens(); }},
        {"measure.kl", [this] { kl(); }},
        {"measure.noise_floor", [this] { noise_floor(); }},
        {"measure.tasks.names", [this] { tasks("names", "[copa]", "[tiny_facts]"); }},
        {"measure.tasks.limit", [this] { tasks("limit", "5", "7"); }},
        {"measure.tasks.shots", [this] { tasks("shots", "0", "1"); }},
        {"measure.generation.corpus", [this] { generation_corpus(); }},
        {"measure.generation.prompts", [this] { generation("measure.generation.prompts=6"); }},
        {"measure.generation.prompt_tokens", [this] { generation("measure.generation.prompt_tokens=24"); }},
        {"measure.generation.new_tokens", [this] { generation("measure.generation.new_tokens=12"); }},
        {"measure.generation.temperature", [this] { generation("measure.generation.temperature=0.8"); }},
        {"measure.generation.top_p", [this] { top_p(); }},
        {"measure.trajectory.corpus", [this] { trajectory("corpus", "tiny/valid", "tiny/test"); }},
        {"measure.trajectory.seq_len", [this] { trajectory("seq_len", "16", "24"); }},
        {"measure.trajectory.windows", [this] { trajectory("windows", "1", "2"); }},
        {"measure.latency.contexts", [this] { latency("contexts", "[4, 8]", "/contexts/1"); }},
        {"measure.latency.generate", [this] { latency("generate", "3", "/generate"); }},
        {"measure.latency.repetitions", [this] { latency("repetitions", "3", "/repetitions"); }},
        {"runtime.linears", [this] { packed(); }},
        {"runtime.rows", [this] { rows(); }},
        {"runtime.prefix.tokens", [this] { changes_the_result("runtime.prefix.tokens=[5, 17]"); }},
        {"machine.cache_bytes", [this] { cache_bytes(); }},
        {"checkpoint", [this] { checkpoint(); }},
        {"sweep.grid", [this] { EXPECT_EQ(lab_.run({"sweep.grid={quant.weight.bits: [2, 3]}"}).rows.size(), 2u); }},
        {"sweep.cases",
         [this] { EXPECT_EQ(lab_.run({"sweep.cases=[{quant.weight.bits: 2}, {}, {}]"}).rows.size(), 3u); }},
        {"expect",
         [this] { keeps_the_result("expect={bits.codes: {equal: 2}}"); }},  // expect_test.cpp says what it does
        {"out", [this] { out(); }},
        {"threads", [this] { threads(); }},
        {"quiet", [this] { keeps_the_result("quiet=false"); }},
    };
  }

 private:
  // Up to the order of float32 sums, which follows the number of threads.
  void keeps_the_result(const std::string& assignment) {
    const Lab other(shallow_model());
    const Json before = lab_.row(),
               after = other.row({"measure.perplexity[0].corpus=" + lab_.file("text.txt"), assignment});
    EXPECT_EQ(after["id"], before["id"]);
    EXPECT_NEAR(Lab::nll_of(after), Lab::nll_of(before), 1e-5);
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
  // inputs are not the original ones. (Sums in another order send an input at a tie to its other side, which later
  // blocks carry on: in the mean of 20 windows that is little.)
  void packed() {
    const Strings all_rows{"runtime.rows=1000000"},
        int8{"quant.activation={bits: 8, symmetry: narrow, granularity: per_group, group_size: 32}"};
    const Strings longer{"measure.perplexity[0].corpus=tiny/valid", "measure.perplexity[0].windows=20",
                         "quant.weight.range=minmax"};
    const auto with = [](Strings given, const Strings& more) {
      given.insert(given.end(), more.begin(), more.end());
      return given;
    };
    const Json real = lab_.row(with(all_rows, {"runtime.linears=packed"}));
    EXPECT_EQ(real["runtime"]["linears"], "packed");
    EXPECT_GT(real["runtime"]["packed"], 0);
    EXPECT_TRUE(real["runtime"]["dense"].empty());
    EXPECT_NEAR(Lab::nll_of(real), lab_.nll(), 1e-5);
    const Json rounded = lab_.row(with(with(all_rows, longer), {"runtime.linears=packed_int8"}));
    const double integer = Lab::nll_of(rounded);
    EXPECT_NEAR(integer, lab_.nll(with(int8, longer)), 1e-3);
    EXPECT_GT(std::abs(integer - lab_.nll(longer)), 1e-4);
    const auto kl = [](const Json& row) { return row["quantized"]["perplexity"][0]["kl_mean"].get<double>(); };
    const Json floats = lab_.row(with(with(all_rows, longer), {"runtime.linears=packed"}));
    EXPECT_NEAR(rounded["quantized"]["perplexity"][0]["kl_of_inputs"], kl(rounded) - kl(floats), 1e-9);
    EXPECT_FALSE(floats["quantized"]["perplexity"][0].contains("kl_of_inputs"));
  }
  void rows() {
    const Strings packed{"runtime.linears=packed"};
    const Json by_tile = lab_.row(packed), by_code = lab_.row({packed[0], "runtime.rows=1000000"});
    EXPECT_NE(by_tile["id"], by_code["id"]);
    EXPECT_EQ(by_code["runtime"]["rows"], 1000000);
    EXPECT_NEAR(Lab::nll_of(by_code), Lab::nll_of(by_tile), 1e-5);
    EXPECT_NE(Lab::nll_of(by_code), Lab::nll_of(by_tile));  // sums in another order
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
    Json tokenizer = Json::parse(core::read_file(model + "/tokenizer.json"));
    const Json end{{"id", "<|endoftext|>"}, {"type_id", 0}}, text{{"id", "A"}, {"type_id", 0}};
    const Json ids = core::load_tokenizer(model)->encode("<|endoftext|>");
    tokenizer["post_processor"] = {{"type", "TemplateProcessing"},
                                   {"single", {{{"SpecialToken", end}}, {{"Sequence", text}}}},
                                   {"special_tokens", {{"<|endoftext|>", {{"ids", ids}}}}}};
    core::write_atomically(model + "/tokenizer.json", tokenizer.dump());
    EXPECT_EQ(lab_.row(here)["quantized"]["perplexity"][0]["bos"], "once");
  }
  // Both models write; other prompts, another text.
  // The model itself with noise of 2⁻⁹ is near to itself, and not equal.
  void noise_floor() {
    EXPECT_FALSE(lab_.row()["baseline"]["perplexity"][0].contains("noise_floor"));
    const Json floor = lab_.row({"measure.noise_floor=true"})["baseline"]["perplexity"][0]["noise_floor"];
    EXPECT_GT(floor["kl_mean"].get<double>(), 1e-8);
    EXPECT_LT(floor["kl_mean"].get<double>(), 1e-3);
    EXPECT_GT(floor["top1_agreement"].get<double>(), 0.95);
    EXPECT_THAT(core::message_of([&] {
                  lab_.points({"measure.kl=false", "measure.noise_floor=true"});
                }),
                ::testing::HasSubstr("measure.noise_floor: it is a KL divergence, and kl: false measures none"));
  }
  void tasks(const std::string& key, const std::string& before, const std::string& after) {
    lab_.put("copa.jsonl",
             R"({"premise": "It rains.", "choice1": "A.", "choice2": "B.", "question": "effect", "label": 0})");
    const auto with = [&](const std::string& value) {
      Strings all{"measure.tasks={names: [tiny_facts], limit: 6}"};
      all.push_back(
          fmt::format("measure.tasks.{}={}", key, value == "[copa]" ? "[" + lab_.file("copa.jsonl") + "]" : value));
      return all;
    };
    const Json one = lab_.row(with(before)), other = lab_.row(with(after));
    EXPECT_NE(one["id"], other["id"]);
    EXPECT_NE(one["quantized"]["tasks"], other["quantized"]["tasks"]);
    EXPECT_EQ(Lab::nll_of(one), Lab::nll_of(other));
  }
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
  void top_p() {
    const auto at = [&](const char* share) {
      Strings all = written();
      all.insert(all.end(), {"measure.generation.temperature=1.5", std::string("measure.generation.top_p=") + share});
      return lab_.row(all)["quantized"]["generation"]["first"];
    };
    EXPECT_NE(at("0.3"), at("1"));
  }
  void trajectory(const std::string& key, const std::string& before, const std::string& after) {
    const auto with = [&](const std::string& value) {
      return lab_.row({"measure.trajectory={corpus: tiny/test, seq_len: 32, windows: 2}",
                       fmt::format("measure.trajectory.{}={}", key, value)});
    };
    const Json one = with(before), other = with(after);
    EXPECT_NE(one["id"], other["id"]);
    EXPECT_NE(one["quantized"]["trajectory"]["last"], other["quantized"]["trajectory"]["last"]);
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

}  // namespace

Proofs proofs_of_runs() { return proofs_of<RunProof>(); }

}  // namespace experiments
