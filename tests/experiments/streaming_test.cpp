// Streamed and resident runs: the same bits in every number, whatever lies in memory and whatever on disk.
#include <ATen/Parallel.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <filesystem>

#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "core/machine.h"
#include "quant/grids/draws.h"
#include "tests/experiments/support.h"

namespace experiments {
namespace {

class Streaming : public ::testing::Test {
 protected:
  // windows.csv and the hash of all codes of a run in a lab of its own.
  std::pair<std::string, Json> outcome(Strings overrides) const {
    overrides.push_back("measure.perplexity[0].corpus=" + text_.file("text.txt"));
    const Lab lab;
    const Json row = lab.row(overrides);
    return {core::slurp(lab.directory(row) + "/windows.csv"), row["hashes"]["codes"]};
  }
  const Lab text_;
};

TEST_F(Streaming, GivesTheSameBitsAsResidentWithAndWithoutSpilledStates) {
  for (const char* method : {"quant.method=rtn", "quant.method=none"}) {
    SCOPED_TRACE(method);
    const auto resident = outcome({method, "model.residency=resident"});
    EXPECT_EQ(outcome({method, "model.residency=stream"}), resident);
    EXPECT_EQ(outcome({method, "model.residency=stream", "model.spill_above=0"}), resident);
    EXPECT_EQ(outcome({method, "model.residency=resident", "model.spill_above=0.00005"}), resident);
  }
}

TEST_F(Streaming, StaticActivationsAndQuantizedEndsToo) {
  const Strings all{"quant.method=gptq", "calibration.samples=4", "calibration.seq_len=64",
                    "quant.activation={bits: 6, mode: static, granularity: per_tensor, range: mse}",
                    "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 4}}, {match: lm_head, weight: {bits: 4}}, "
                    "{match: \"*.down_proj\", weight: {bits: 16}}]"};
  const auto with = [&](const char* residency) {
    Strings some = all;
    some.push_back(residency);
    return outcome(some);
  };
  EXPECT_EQ(with("model.residency=stream"), with("model.residency=resident"));
}

TEST_F(Streaming, AMethodThatRunsTheBlockOnBothStreamsToo) {
  const Strings all{"quant.method=signround", "quant.signround.iterations=4", "calibration.samples=4",
                    "calibration.seq_len=64", "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 4}}]"};
  const auto with = [&](const Strings& more) {
    Strings some = all;
    some.insert(some.end(), more.begin(), more.end());
    return outcome(some);
  };
  const auto resident = with({"model.residency=resident"});
  EXPECT_EQ(with({"model.residency=stream", "model.spill_above=0"}), resident);
}

TEST_F(Streaming, CorrectedTargetsToo) {
  const auto with = [&](const Strings& more) {
    Strings all{"quant.method=gptq",          "calibration.true_sequential=true",
                "calibration.samples=4",      "calibration.seq_len=64",
                "calibration.targets=output", "quant.rules=[{match: \"*embed_tokens\", weight: {bits: 4}}]"};
    all.insert(all.end(), more.begin(), more.end());
    return outcome(all);
  };
  const auto resident = with({"model.residency=resident"});
  EXPECT_EQ(with({"model.residency=stream", "model.spill_above=0"}), resident);
}

TEST_F(Streaming, ACheckpointOfOursIsStreamedWithTheSameBits) {
  const Lab lab;
  const std::string checkpoint = lab.directory(lab.row()) + "/checkpoint";
  const Strings measured{"model.path=" + checkpoint, "quant.method=none"};
  const auto with = [&](const char* residency) {
    Strings all = measured;
    all.push_back(residency);
    return outcome(all);
  };
  EXPECT_EQ(with("model.residency=stream"), with("model.residency=resident"));
}

// Experts of a streamed block are read one by one: in full precision from the model, quantized from the checkpoint.
TEST_F(Streaming, AMixtureOfExpertsToo) {
  const std::vector<Strings> cases{
      {"quant.method=none"},
      {"quant.method=rtn", "runtime.linears=packed"},
      {"quant.method=gptq", "calibration.min_token_fraction=0.3", "calibration.fallback=pooled"},
      {"quant.method=gptq", "calibration.true_sequential=true", "calibration.targets=output"},
      {"quant.method=gptq", "quant.weight.incoherence.hadamard=both"},
      {"quant.method=gptq", "quant.rules=[{match: \"*.experts.0.*\", weight: {bits: 16}, activation: {bits: 8}}]",
       "replication={strategy: low_rank, select: {unit: expert, policy: sensitivity, fraction: 0.25}}"},
      {"quant.method=rtn", "replication={strategy: depth, depth: {span: [1, 2], gate_init: 0.5}}"}};
  for (Strings all : cases) {
    SCOPED_TRACE(::testing::PrintToString(all));
    const auto with = [&](const std::string& residency) {
      Strings some{"model.path=tiny-deepseek-moe", "calibration.samples=4", "calibration.seq_len=64"};
      some.insert(some.end(), all.begin(), all.end());
      some.push_back("model.residency=" + residency);
      return outcome(some);
    };
    EXPECT_EQ(with("stream"), with("resident"));
  }
}

TEST_F(Streaming, AutoStreamsWhatWouldFillMoreThanHalfOfTheMemory) {
  Resources resources("");
  const auto residency = [&](const char* key) {
    const Spec spec = text_.points({key}).front().spec;
    return residency_of(spec, weights_of(spec, resources.model(spec.model.path)));
  };
  const Spec spec = text_.points().front().spec;
  const core::Weights weights = weights_of(spec, resources.model(spec.model.path));
  EXPECT_EQ(weights.bytes_in_memory(),
            2 * static_cast<int64_t>(core::Checkpoint::open(resources.model(spec.model.path).path).total_bytes()))
      << "the file holds bfloat16, float32 is computed with";
  EXPECT_LT(weights.bytes_in_memory(), core::memory_bytes() / 2);
  EXPECT_EQ(residency("model.residency=auto"), exports::Residency::resident);
  EXPECT_EQ(residency("model.residency=stream"), exports::Residency::stream);
}

// ---- memory ----

constexpr int64_t kWidth = 1024,
                  kExpertFfn = 2048;  // a weight is large enough for its memory to go back when it is freed

// A model of one block, a mixture of so many experts, which are all the same; with the tokenizer of the tiny models.
void write_mixture(const std::string& directory, int64_t experts) {
  core::create_directories(directory);
  for (const char* name : {"tokenizer.json", "tokenizer_config.json"})
    std::filesystem::copy_file(kTinyModel + "/" + name, directory + "/" + name);
  core::write_atomically(directory + "/config.json", fmt::format(R"({{"model_type": "qwen3_moe", "hidden_size": {},
    "intermediate_size": {}, "moe_intermediate_size": {}, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 1024, "max_position_embeddings": 256, "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "attention_bias": false,
    "num_experts": {}, "num_experts_per_tok": 2, "norm_topk_prob": true, "decoder_sparse_step": 1,
    "mlp_only_layers": []}})",
                                                                 kWidth, kExpertFfn, kExpertFfn, experts));
  const std::string block = "model.layers.0.";
  std::map<std::string, std::vector<int64_t>> shapes{
      {"model.embed_tokens.weight", {1024, kWidth}},      {"model.norm.weight", {kWidth}},
      {block + "input_layernorm.weight", {kWidth}},       {block + "post_attention_layernorm.weight", {kWidth}},
      {block + "self_attn.q_norm.weight", {64}},          {block + "self_attn.k_norm.weight", {64}},
      {block + "self_attn.o_proj.weight", {kWidth, 256}}, {block + "mlp.gate.weight", {experts, kWidth}}};
  for (const char* name : {"q", "k", "v"}) shapes[block + "self_attn." + name + "_proj.weight"] = {256, kWidth};
  for (int64_t e = 0; e < experts; ++e) {
    const std::string expert = block + "mlp.experts." + std::to_string(e);
    shapes[expert + ".gate_proj.weight"] = shapes[expert + ".up_proj.weight"] = {kExpertFfn, kWidth};
    shapes[expert + ".down_proj.weight"] = {kWidth, kExpertFfn};
  }
  const at::Tensor drawn =
      quant::normal_draw({"mixture", 1}, "weight", 0, kExpertFfn, kWidth).mul(0.04).to(at::kBFloat16);
  std::vector<core::TensorToWrite> tensors;
  for (const auto& [name, shape] : shapes) tensors.push_back({name, core::DType::BF16, shape, drawn.const_data_ptr()});
  core::write_safetensors(directory + "/model.safetensors", tensors);
}

// Peak memory by stage, the lowest of the runs so far: a peak has what a stage needs and, now and then, what the
// allocator of a thread has not given back yet.
class Peaks {
 public:
  Peaks(int64_t experts, const char* residency) : experts_(experts), residency_(residency) {}
  void run_once_more() {
    const Lab lab;
    write_mixture(lab.file("mixture"), experts_);
    const Json row = lab.row({"model.path=" + lab.file("mixture"), std::string("model.residency=") + residency_});
    for (const Json& stage : row["stages"]) {
      const double peak = stage["peak_rss_bytes"];
      const auto [it, is_first] = all_.emplace(stage["name"], peak);
      if (!is_first) it->second = std::min(it->second, peak);
    }
  }
  const std::map<std::string, double>& all() const { return all_; }
  double at(const std::string& stage) const { return all_.at(stage); }

 private:
  int64_t experts_;
  const char* residency_;
  std::map<std::string, double> all_;
};

class StreamingMemory : public ::testing::TestWithParam<int> {
 protected:
  void SetUp() override { at::set_num_threads(GetParam()); }
  void TearDown() override { at::set_num_threads(2); }  // as tests/experiments/support.cpp
};

INSTANTIATE_TEST_SUITE_P(Threads, StreamingMemory, ::testing::Values(1, 2));

TEST_P(StreamingMemory, OfAMixtureIsThatOfOneExpert) {
#ifdef __APPLE__
  GTEST_SKIP() << "freed memory is given back on Linux only";
#endif
  constexpr int64_t kFew = 4, kMany = 16;
  const double added = (kMany - kFew) * 3 * kWidth * kExpertFfn * 4.0;  // bytes of weights in float32
  // While a block is quantized, its codes, scales and zero points wait until all of it is written: 3 bits of 32, and
  // what the allocator keeps between them (measured together: 0.19 of the weights).
  const auto allowed = [&](const std::string& stage) { return stage == "quantize" ? added / 4 : added / 16; };
  Peaks few(kFew, "stream"), many(kMany, "stream"), resident(kMany, "resident");
  few.run_once_more();
  many.run_once_more();
  const auto exceeds = [&](const auto& of) { return of.second - few.at(of.first) > allowed(of.first); };
  if (std::any_of(many.all().begin(), many.all().end(), exceeds)) {
    few.run_once_more();
    many.run_once_more();
  }
  for (const auto& [stage, peak] : many.all()) {
    EXPECT_LE(peak - few.at(stage), allowed(stage))
        << stage << ": " << few.at(stage) / 1e6 << " to " << peak / 1e6 << " MB";
  }
  // And the measurement would see them.
  resident.run_once_more();
  EXPECT_GE(resident.at("baseline") - many.at("baseline"), added / 2);
  EXPECT_GE(resident.at("quantize") - many.at("quantize"), added / 2);
}

}  // namespace
}  // namespace experiments
