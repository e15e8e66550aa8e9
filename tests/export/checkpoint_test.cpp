// Save, restore, and nothing has changed: logits bit for bit, untouched tensors byte for byte, plan and bill.
#include "export/checkpoint.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "quant/linear/quantized_linear.h"
#include "tests/export/support.h"

namespace exports {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::Not;

// Every kind of model in tests/golden, under variables that are uniform, mixed, odd, or leave modules dense.
struct Case {
  std::string model;
  const char* quant;
};

void PrintTo(const Case& c, std::ostream* out) { *out << c.model << ": " << c.quant; }

class SaveAndRestore : public ::testing::TestWithParam<Case> {};

TEST_P(SaveAndRestore, GivesTheSameLogitsBitForBit) {
  const core::Scratch out;
  Opened model = opened(golden(GetParam().model));
  const at::Tensor dense_logits = model.logits();
  save(model, GetParam().quant, out.path());
  const at::Tensor expected = model.logits();
  EXPECT_FALSE(at::equal(expected, dense_logits)) << "quantization did nothing";
  Opened restored = opened(out.path());
  EXPECT_TRUE(at::equal(restored.logits(), expected));
}

TEST_P(SaveAndRestore, GivesTheSameLinearsAndTheSameBill) {
  const core::Scratch out;
  Opened model = opened(golden(GetParam().model));
  save(model, GetParam().quant, out.path());
  Opened restored = opened(out.path());
  const auto before = model.model->slots(), after = restored.model->slots();
  ASSERT_EQ(before.size(), after.size());
  for (size_t i = 0; i < before.size(); ++i) {
    const auto* a = dynamic_cast<quant::QuantizedLinear*>(&before[i]->linear());
    const auto* b = dynamic_cast<quant::QuantizedLinear*>(&after[i]->linear());
    ASSERT_EQ(a == nullptr, b == nullptr) << before[i]->path();
    if (a == nullptr) continue;
    EXPECT_EQ(a->codes().hash(), b->codes().hash()) << before[i]->path();
    EXPECT_EQ(a->bias_bits(), b->bias_bits()) << before[i]->path();
  }
  const core::Cost one = core::bill(*model.model), other = core::bill(*restored.model);
  EXPECT_EQ(one.code_bits, other.code_bits);
  EXPECT_EQ(one.parameter_bits, other.parameter_bits);
  EXPECT_EQ(one.dense_bits, other.dense_bits);
  EXPECT_EQ(one.bytes_read, other.bytes_read);
}

TEST_P(SaveAndRestore, KeepsUntouchedTensorsByteForByte) {
  const core::Scratch out;
  Opened model = opened(golden(GetParam().model));
  save(model, GetParam().quant, out.path());
  const auto source = core::Checkpoint::open(golden(GetParam().model)), written = core::Checkpoint::open(out.path());
  for (const std::string& name : source.names()) {
    if (!written.has(name)) {
      EXPECT_TRUE(written.has(name.substr(0, name.rfind(".weight")) + ".codes")) << name << " is lost";
      continue;
    }
    const core::TensorView &a = source.at(name), &b = written.at(name);
    EXPECT_EQ(a.dtype, b.dtype) << name;
    EXPECT_EQ(a.shape, b.shape) << name;
    EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(a.data), a.bytes),
              std::string_view(reinterpret_cast<const char*>(b.data), b.bytes))
        << name;
  }
}

constexpr const char* kMixed =
    "{weight: {bits: 2, group_size: 4}, rules: [{match: '*.0.*', weight: {bits: 3, group_size: -1}}, {match: "
    "'role:up_proj', weight: {bits: 5, "
    "group_size: 0}}, {match: 'role:down_proj', weight: {bits: 16}}, {match: '*.1.*.gate_proj', weight: {bits: 7, "
    "group_size: 3}}, {match: "
    "'*.1.*.k*', weight: {bits: 1, group_size: 8}}]}";

std::vector<Case> cases() {
  std::vector<Case> all;
  for (const std::string& model : golden_names()) all.push_back({model, kMixed});
  for (const char* quant : {"{weight: {bits: 1, group_size: 8}}", "{weight: {bits: 2, group_size: -1}}",
                            "{weight: {bits: 3, group_size: 0}}", "{weight: {bits: 4, group_size: 1}}",
                            "{weight: {bits: 5, group_size: 2}}", "{weight: {bits: 6, group_size: 4}}",
                            "{weight: {bits: 7, group_size: 8}}", "{weight: {bits: 8, group_size: -1}}"}) {
    all.push_back({"llama_biases", quant});
  }
  for (const char* quant :
       {"{weight: {bits: 2, group_size: 8, zero_point: float, scale_dtype: bfloat16, offset: 0.25}}",
        "{weight: {bits: 3, group_size: 4, symmetry: signed_full, scale_bits: 5, scale_group: 2, range: mse}}",
        "{weight: {bits: 2, group_size: 8, symmetry: midrise, scale_dtype: float32, clip: 0.9}}",
        "{weight: {bits: 2, group_size: 8, codebook: lloyd_max, rounding: stochastic}}",
        "{weight: {bits: 2, group_size: 8, codebook: levels, levels: [-1, -0.3, 0.2, 0.9], noise: {sigma: 0.3}}}",
        "{weight: {bits: 4, codebook: normal_float, group_size: 8, noise: {sigma: 0.3}}, rules: [{match: '*.1.*', "
        "weight: {codebook: uniform, symmetry: span}}]}",
        "{weight: {bits: 4, group_size: 8}, activation: {bits: 6, rounding: stochastic, clip: {value: 0.9}}, rules: "
        "[{match: '*.1.*', activation: {bits: 16}}]}"}) {
    all.push_back({"llama_biases", quant});
  }
  for (const char* quant :
       {"{weight: {bits: 4, group_size: 8}, activation: {bits: 6, mode: static, granularity: per_tensor}, rules: "
        "[{match: '*.1.*', weight: {bits: 16}}, {match: '*.0.*.down_proj', activation: {symmetry: midrise}}]}",
        "{weight: {bits: 16}, activation: {bits: 5, mode: static, granularity: per_group, group_size: 4, range: mse}}",
        "{weight: {bits: 16}, activation: {bits: 5, rounding: stochastic}}",
        "{weight: {bits: 4, group_size: 8}, rules: [{match: '*embed_tokens', weight: {bits: 3}}, {match: lm_head, "
        "weight: {bits: 3}}]}",
        "{weight: {bits: 4, group_size: 8}, rules: [{match: '*embed_tokens', weight: {bits: 3, scale_bits: 4}}]}",
        "{weight: {bits: 4, group_size: 8}, rules: [{match: lm_head, weight: {bits: 3, group_size: 0, noise: {sigma: "
        "0.2}}, activation: {bits: 6}}]}",
        "{weight: {bits: 4, group_size: 8}, rules: [{match: 'role:embed_tokens', weight: {bits: 5}}, {match: "
        "'role:lm_head', weight: {bits: 2, codebook: lloyd_max}}]}"}) {
    for (const char* model : {"llama_biases", "qwen3_tied", "qwen2"}) all.push_back({model, quant});
  }
  return all;
}

INSTANTIATE_TEST_SUITE_P(Golden, SaveAndRestore, ::testing::ValuesIn(cases()));

// ---- what the directory holds ----

TEST(Save, WritesOneShardPerBlockTheEndsTheIndexTheConfigAndRefrainJson) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  save(model, kMixed, out.path());
  std::vector<std::string> expected{"block-00000.safetensors", "block-00001.safetensors",      "config.json",
                                    "ends.safetensors",        "model.safetensors.index.json", "refrain.json"};
  EXPECT_EQ(out.listing(), expected);
  EXPECT_EQ(core::slurp(out.file("config.json")), core::slurp(golden("qwen3_tied") + "/config.json"));
}

TEST(Save, CopiesTheTokenizerFilesThatTheSourceHas) {
  const core::Scratch source, out;
  std::filesystem::copy(golden("qwen2"), source.path());
  source.put("tokenizer.json", "{\"a\": 1}");
  source.put("tokenizer_config.json", "{}");
  source.put("notes.txt", "not copied");
  Opened model = opened(source.path());
  save(model, "{weight: {group_size: 8}}", out.path());
  EXPECT_EQ(core::slurp(out.file("tokenizer.json")), "{\"a\": 1}");
  EXPECT_EQ(core::slurp(out.file("tokenizer_config.json")), "{}");
  EXPECT_THAT(out.listing(), Not(Contains("notes.txt")));
  EXPECT_THAT(out.listing(), Not(Contains("tokenizer.model")));
}

TEST(Save, StoresCodesAndZerosPackedAndScalesAsFloat16) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  save(model, "{weight: {bits: 3, group_size: 8}}", out.path());
  const auto written = core::Checkpoint::open(out.path());
  const std::string path = "model.layers.0.mlp.down_proj";
  const core::Slot& slot = *model.model->slots().at(6);
  ASSERT_EQ(slot.path(), path);
  const int64_t rows = slot.out_features(), groups = slot.in_features() / 8;
  EXPECT_EQ(written.at(path + ".codes").dtype, core::DType::U8);
  EXPECT_THAT(written.at(path + ".codes").shape, ElementsAre(rows, (slot.in_features() * 3 + 7) / 8));
  EXPECT_EQ(written.at(path + ".scale").dtype, core::DType::F16);
  EXPECT_THAT(written.at(path + ".scale").shape, ElementsAre(rows, groups));
  EXPECT_EQ(written.at(path + ".zero_point").dtype, core::DType::U8);
  EXPECT_THAT(written.at(path + ".zero_point").shape, ElementsAre(rows, (groups * 3 + 7) / 8));
  EXPECT_FALSE(written.has(path + ".weight"));
}

TEST(Save, DescribesEveryModuleInRefrainJson) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  save(model, kMixed, out.path(), "0123abc");
  const auto json = nlohmann::json::parse(core::slurp(out.file("refrain.json")));
  EXPECT_EQ(json["schema"], 1);
  EXPECT_EQ(json["model"], "qwen3_tied");
  EXPECT_EQ(json["commit"], "0123abc");
  EXPECT_EQ(json["plan"], nlohmann::json::parse(
                              R"([{"block": 0, "replica": 0, "kv": "own"}, {"block": 1, "replica": 0, "kv": "own"}])"));
  const auto& module = json["modules"]["model.layers.1.self_attn.k_proj"];
  EXPECT_EQ(module["decoder"], "affine");
  EXPECT_EQ(module["weight"]["bits"], 1);
  EXPECT_EQ(module["weight"]["group_size"], 8);
  const auto& slot = *model.model->slots().at(8);
  ASSERT_EQ(slot.path(), "model.layers.1.self_attn.k_proj");
  EXPECT_EQ(module["code_hash"], dynamic_cast<quant::QuantizedLinear&>(slot.linear()).codes().hash());
  EXPECT_FALSE(json["modules"].contains("model.layers.0.mlp.down_proj"));  // left in full precision
}

TEST(Save, RemembersWhetherATiedPairStillShares) {
  const core::Scratch shared, apart;
  const std::string rows = "{match: '*embed_tokens', weight: {bits: 3}}",
                    both = rows + ", {match: lm_head, weight: {bits: 3}}", start = "{weight: {group_size: 8}, rules: [";
  Opened one = opened(golden("qwen3_tied")), other = opened(golden("qwen3_tied"));
  save(one, start + both + "]}", shared.path());
  save(other, start + rows + "]}", apart.path());
  EXPECT_TRUE(core::shares_embedding(*opened(shared.path()).model));
  EXPECT_FALSE(core::Checkpoint::open(shared.path()).has("lm_head.codes"));
  EXPECT_FALSE(core::shares_embedding(*opened(apart.path()).model));
  const auto source = core::Checkpoint::open(golden("qwen3_tied")), written = core::Checkpoint::open(apart.path());
  EXPECT_EQ(written.at("lm_head.weight").dtype, source.at("model.embed_tokens.weight").dtype);
  EXPECT_FALSE(written.has("model.embed_tokens.weight"));
}

TEST(Save, ATensorThatSomethingHasChangedIsStoredAsItIsNow) {
  const core::Scratch out;
  Opened model = opened(golden("llama_biases"));
  ChangeOfNorm change;
  save(model, "{weight: {bits: 4, group_size: 8}}", out.path(), "", {&change});
  const at::Tensor expected = model.logits();
  EXPECT_TRUE(at::equal(opened(out.path()).logits(), expected));
  EXPECT_EQ(core::Checkpoint::open(out.path()).at("model.norm.weight").dtype, core::DType::F32);
}

// A strategy as it is saved here, and of what; window codes need tiles of 16 × 16 weights, which no golden model has.
struct Replicated {
  std::string strategy, options, quant = "{weight: {bits: 3, group_size: 8, zero_point: float}}",
                                 model = golden("qwen3_tied");
};

const std::string kTiny = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3",
                  kAttentionOfTiny =
                      "{weight: {bits: 2, group_size: 64}, rules: [{match: '*.mlp.*', weight: {bits: 16}}]}";

const std::vector<Replicated> kReplicated{
    {"scales", "{replicas: [{}, {group_size: 4, noise: 0.1}]}"},
    {"scales", "{replicas: [{}, {offset: 0.1}]}"},
    {"scales", "{replicas: [{rounding: stochastic}, {offset: 0.1}], own_codes: true}"},
    {"row_column", "{replicas: 2}", "{weight: {bits: 2, group_size: -1}}"},
    {"low_rank", "{rank: 2}"},
    {"parity_sign", "{replicas: 2, window_bits: 8}", kAttentionOfTiny, kTiny},
    {"shifted", "{replicas: 3}", kAttentionOfTiny, kTiny},
    {"token_adaptive", "{experts: 3, spread: 0.2}"},
    {"depth", "{gate_init: 0.75, passes: 3, order: span}"},
    {"parallel", "{jitter: 0.1, replicas: 3}"},
    {"adjacent", "{span: 2}"}};

TEST(Save, RemembersReplicas) {
  for (const Replicated& it : kReplicated) {
    SCOPED_TRACE(it.strategy + " " + it.options);
    const core::Scratch out;
    Opened model = opened(it.model);
    save(model, it.quant, out.path(), {}, {},
         "{strategy: " + it.strategy + ", " + it.strategy + ": " + it.options + "}");
    EXPECT_TRUE(at::equal(opened(out.path()).logits(), model.logits()));
  }
}

TEST(Save, KnowsEveryStrategy) {
  for (const auto& [name, strategy] : replication::make_strategies()) {
    EXPECT_TRUE(
        std::any_of(kReplicated.begin(), kReplicated.end(), [&](const Replicated& it) { return it.strategy == name; }))
        << name << " is saved and restored nowhere. Add it to kReplicated.";
  }
}

TEST(Save, RemembersReplicasOfInputs) {
  for (const char* mode : {"mode: dynamic", "mode: static, granularity: per_tensor"}) {
    const core::Scratch out;
    Opened model = opened(golden("qwen3_tied"));
    save(model, std::string("{weight: {bits: 3, group_size: 8}, activation: {bits: 4, ") + mode + "}}", out.path(), {},
         {},
         "{strategy: scales, scales: {replicas: [{activation: {offset: -0.25, clip: {value: 0.9}}}, {activation: "
         "{scale: 1.1, zero_point: 0.5}}]}}");
    EXPECT_TRUE(at::equal(opened(out.path()).logits(), model.logits())) << mode;
  }
}

TEST(Save, InBFloat16KeepsTheSourcesBytesAndTheLogits) {
  const core::Scratch out;
  const std::string source = golden("llama_linear");  // float32
  Opened model = opened(source, at::kBFloat16);
  save(model, kMixed, out.path());
  EXPECT_TRUE(at::equal(opened(out.path(), at::kBFloat16).logits(), model.logits()));
  EXPECT_EQ(core::Checkpoint::open(source).at("model.norm.weight").dtype, core::DType::F32);
  EXPECT_EQ(core::Checkpoint::open(out.path()).at("model.norm.weight").dtype, core::DType::F32);
}

TEST(Save, ARestoredCheckpointCanBeSavedAgain) {
  const core::Scratch first, second;
  Opened model = opened(golden("qwen2"));
  save(model, kMixed, first.path());
  const at::Tensor expected = model.logits();
  Opened restored = opened(first.path());
  save(restored, "{method: none}", second.path());
  EXPECT_TRUE(at::equal(opened(second.path()).logits(), expected));
  EXPECT_EQ(core::slurp(second.file("refrain.json")), core::slurp(first.file("refrain.json")));
  EXPECT_EQ(core::slurp(second.file("block-00001.safetensors")), core::slurp(first.file("block-00001.safetensors")));
}

TEST(Save, KeepsThePlanAndRestoreFollowsIt) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  model.model->follow({{.block = 0}, {.block = 1}, {.block = 1, .replica = 1}});
  save(model, "{weight: {group_size: 8}}", out.path());
  Opened restored = opened(out.path());
  ASSERT_EQ(restored.model->plan().size(), 3);
  EXPECT_EQ(restored.model->plan()[2].block, 1);
  EXPECT_EQ(restored.model->plan()[2].replica, 1);
  EXPECT_EQ(restored.model->plan()[2].kv, core::Step::kOwn);
  EXPECT_TRUE(at::equal(restored.logits(), model.logits()));
}

// Replicas keep what is their own; what they share is stored once, and in memory once.
TEST(Save, KeepsWhatReplicasHaveOfTheirOwn) {
  for (const char* replication : {"{strategy: parallel, parallel: {jitter: 0.1, replicas: 3}}",
                                  "{strategy: depth, depth: {gate_init: 0.75, passes: 3, order: span}}"}) {
    for (const char* name : {"qwen3_tied", "qwen2"}) {  // the latter has biases
      const core::Scratch out, plain;
      Opened model = opened(golden(name)), without = opened(golden(name));
      save(model, kMixed, out.path(), "", {}, replication);
      save(without, kMixed, plain.path());
      Opened restored = opened(out.path());
      EXPECT_EQ(restored.model->plan(), model.model->plan());
      EXPECT_TRUE(at::equal(restored.logits(), model.logits())) << replication;
      EXPECT_FALSE(at::equal(restored.logits(), without.logits())) << replication;
      const core::Cost stored = core::bill(*restored.model), once = core::bill(*without.model);
      EXPECT_EQ(stored.code_bits, once.code_bits);
      EXPECT_EQ(stored.dense_bits, once.dense_bits);
      EXPECT_GT(stored.parameter_bits, once.parameter_bits);
      EXPECT_EQ(stored.parameter_bits, core::bill(*model.model).parameter_bits);
      std::set<const void*> codes;
      for (const core::State& state : core::named_state(*restored.model)) {
        if (state.kind == core::Kind::codes) codes.insert(state.tensor.const_data_ptr());
      }
      size_t expected = 0;
      for (const core::State& state : core::named_state(*without.model)) expected += state.kind == core::Kind::codes;
      EXPECT_EQ(codes.size(), expected);
      const int64_t more = bytes_on_disk(out.path()) - bytes_on_disk(plain.path());
      EXPECT_LT(more, 2 * (stored.parameter_bits - once.parameter_bits) / 8 + 16384) << "headers and parameters";
    }
  }
}

TEST(Save, IsNotACheckpointBeforeItsEnd) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  save(model, kMixed, out.path());
  EXPECT_TRUE(is_quantized_checkpoint(out.path()));
  Opened again = opened(golden("qwen3_tied"));
  StopAtBlock stop(1);
  EXPECT_THROW(save(again, kMixed, out.path(), "", {&stop}), std::runtime_error);
  EXPECT_FALSE(is_quantized_checkpoint(out.path()));
}

TEST(Save, RefusesToWriteOverItsSource) {
  const core::Scratch first;
  Opened model = opened(golden("qwen2"));
  save(model, kMixed, first.path());
  Opened restored = opened(first.path());
  EXPECT_EQ(core::message_of([&] { save(restored, "{method: none}", first.path() + "/."); }),
            first.path() + "/.: the checkpoint would overwrite the model that it is made from. Choose another --out.");
  EXPECT_TRUE(is_quantized_checkpoint(first.path()));
}

// ---- opening ----

TEST(OpenSource, LoadsABlockOnceAndKeepsIt) {
  const core::Scratch out;
  Opened model = opened(golden("qwen2"));
  save(model, kMixed, out.path());
  Opened restored = opened(out.path());
  const auto first = restored.model->slots().front()->pointer();
  restored.source->load(*restored.model, 0);
  EXPECT_EQ(restored.model->slots().front()->pointer(), first);
}

TEST(OpenSource, GivesParametersTheirOwnMemoryInFloat32) {
  const core::Scratch out;
  Opened model = opened(golden("qwen2"));
  save(model, "{weight: {group_size: 8}}", out.path());
  Opened restored = opened(out.path(), at::kBFloat16);
  auto& linear = dynamic_cast<quant::QuantizedLinear&>(restored.model->slots().front()->linear());
  EXPECT_EQ(linear.weight().scalar_type(), at::kBFloat16);
  const at::Tensor& scale = linear.parameters().at("scale");
  EXPECT_EQ(scale.scalar_type(), at::kFloat);
  at::NoGradGuard no_gradient;
  const at::Tensor before = scale.clone();
  scale.mul_(2);  // a write into the mapped file would crash
  EXPECT_TRUE(at::equal(opened(out.path()).model->slots().front()->linear().state()[1].tensor, before));
}

TEST(BytesOnDisk, IsTheSumOfTheFilesInUse) {
  const core::Scratch out;
  Opened model = opened(golden("qwen3_tied"));
  save(model, kMixed, out.path());
  int64_t bytes = 0;
  for (const char* file : {"block-00000", "block-00001", "ends"})
    bytes += std::filesystem::file_size(out.file(std::string(file) + ".safetensors"));
  out.put("block-00007.safetensors", "left over from a deeper model");
  EXPECT_EQ(bytes_on_disk(out.path()), bytes);
  EXPECT_EQ(bytes_on_disk(golden("qwen2")),
            static_cast<int64_t>(std::filesystem::file_size(golden("qwen2") + "/model.safetensors")));
}

}  // namespace
}  // namespace exports
