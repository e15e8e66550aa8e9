// GGUF files that we write: which grids they hold exactly, what is read back of a whole model, what is refused.
#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <gmock/gmock.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/gguf.h"
#include "core/io/gguf_model.h"
#include "core/io/model_path.h"
#include "export/exporter.h"
#include "export/gguf/coded_rows.h"
#include "export/gguf/rounded_rows.h"
#include "quant/grids/ggml_grid.h"
#include "quant/grids/make_format.h"
#include "tests/export/gguf_support.h"

namespace exports {
namespace {

using core::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

quant::WeightConfig weight_config(const std::string& yaml) {
  core::Node node = core::parse_yaml("weight: " + yaml, "a.yaml");
  quant::expand_presets(node);
  quant::WeightConfig config;
  core::bind(*node.find("weight"), config, "weight");
  return config;
}

// ---- one weight ----

struct GridCase {
  const char* weight;  // variables
  const char* type;    // the smallest that holds it exactly; "": none
};
void PrintTo(const GridCase& c, std::ostream* out) { *out << c.weight; }

class Held : public testing::TestWithParam<GridCase> {
 protected:
  static constexpr int64_t kRows = 5, kColumns = 512;
  // Weights of both signs whose groups differ in size and in which side is larger.
  static at::Tensor weight() {
    const at::Tensor place = at::arange(kRows * kColumns, at::kFloat);
    const at::Tensor w = (place * 0.7391).sin() + 0.3 * (place * 0.0173).cos();
    return (w * (0.2 + (place / 48).floor().remainder(7) / 4)).reshape({kRows, kColumns});
  }
};

TEST_P(Held, ByTheSmallestTypeThatDecodesToTheVeryWeight) {
  const auto format = quant::make_format(weight_config(GetParam().weight), "", kColumns);
  const at::Tensor w = weight();
  const quant::Encoded encoded = format->encode(w, format->fit(w, {}));
  const at::Tensor expected = format->decode(encoded.codes, encoded.parameters);
  const CodedRows rows(*format, encoded);
  std::string smallest;
  for (const core::GgmlType* type : core::coded_ggml_types()) {
    const auto bytes = rows.in(*type);
    if (!bytes) continue;
    if (smallest.empty()) smallest = type->name;
    at::Tensor decoded = at::empty_like(expected);
    type->decode(bytes->data(), decoded.numel() / type->block, decoded.mutable_data_ptr<float>());
    EXPECT_TRUE(at::equal(decoded, expected)) << type->name;
  }
  EXPECT_EQ(smallest, GetParam().type);
}

// The table of types and grids; what is no row of it is held by none.
INSTANTIATE_TEST_SUITE_P(
    Grids, Held,
    testing::Values(
        GridCase{"{bits: 1, group_size: 128, symmetry: midrise}", "Q1_0"},
        GridCase{"{bits: 2, group_size: 64, symmetry: signed_full}", "Q2_0"},
        GridCase{"{bits: 2, group_size: 128, symmetry: span}", "Q2_0"},
        GridCase{"{bits: 2, group_size: 64, symmetry: narrow}", "Q2_0"},
        GridCase{"{bits: 2, group_size: 64, symmetry: noclip}", "Q2_0"},
        GridCase{"{bits: 2, group_size: 256, symmetry: signed_full}", "TQ2_0"},
        GridCase{"{bits: 2, group_size: -1, symmetry: span}", "TQ2_0"},
        GridCase{"{bits: 2, group_size: 0, symmetry: span}", "TQ2_0"},
        GridCase{"{bits: 2, group_size: 256, symmetry: midrise}", "Q2_K"},
        GridCase{"{bits: 2, group_size: 16, zero_point: min, scale_bits: 4, scale_group: 16, scale_zero: true}",
                 "Q2_K"},
        GridCase{"{bits: 2, group_size: 64, symmetry: midrise}", "Q4_0"},
        GridCase{"{bits: 2, group_size: 32, symmetry: asymmetric}", "Q4_0"},
        GridCase{"{bits: 3, group_size: 32, symmetry: asymmetric}", "Q4_0"},
        GridCase{"{bits: 3, group_size: 64, symmetry: midrise}", "Q4_0"},
        GridCase{"{bits: 3, group_size: -1, symmetry: span}", "Q3_K"},
        GridCase{"{bits: 3, group_size: 16, symmetry: signed_full, scale_bits: 6, scale_zero: true}", "Q3_K"},
        GridCase{"{bits: 4, group_size: 32, symmetry: span}", "Q4_0"},
        GridCase{"{bits: 4, group_size: 64, symmetry: signed_full}", "Q4_0"},
        GridCase{"{bits: 4, group_size: 32, symmetry: asymmetric}", "Q5_0"},
        GridCase{"{bits: 4, group_size: 32, symmetry: asymmetric, zero_point: min}", "Q4_1"},
        GridCase{"{bits: 4, group_size: 32, symmetry: midrise}", "Q5_0"},
        GridCase{"{bits: 4, group_size: 32, zero_point: min, scale_bits: 6, scale_group: 8, scale_zero: true}", "Q4_K"},
        GridCase{"{bits: 5, group_size: 32, zero_point: min, scale_bits: 6, scale_group: 8, scale_zero: true}", "Q5_K"},
        GridCase{"{bits: 5, group_size: 32, symmetry: asymmetric}", "Q8_0"},
        GridCase{"{bits: 6, group_size: 16, symmetry: signed_full, scale_bits: 8, scale_zero: true}", "Q6_K"},
        GridCase{"{bits: 7, group_size: 64, symmetry: asymmetric}", "Q8_0"},
        GridCase{"{bits: 8, group_size: 32, symmetry: span}", "Q8_0"}, GridCase{"{preset: q2_0}", "Q2_0"},
        GridCase{"{preset: tq2_0}", "TQ2_0"}, GridCase{"{preset: q5_1}", "Q5_1"},
        GridCase{"{bits: 8, group_size: 32, symmetry: asymmetric}", ""}, GridCase{"{bits: 2, group_size: 16}", ""},
        GridCase{"{bits: 4, group_size: 32, zero_point: float}", ""},
        GridCase{"{bits: 4, group_size: 32, symmetry: span, offset: 0.25}", ""},
        GridCase{"{bits: 4, group_size: 32, symmetry: span, scale_dtype: float32}", ""},
        GridCase{"{bits: 2, group_size: 64, codebook: normal_float}", ""}));

// Every preset is the grid of its type: the type holds it, whatever the weight.
TEST(Presets, AreHeldByTheirTypes) {
  for (const std::string& preset : quant::presets()) {
    const auto format = quant::make_format(weight_config("{preset: " + preset + "}"), "", 512);
    const at::Tensor w = at::arange(1024, at::kFloat).mul(0.7391).sin().reshape({2, 512});
    EXPECT_TRUE(CodedRows(*format, format->encode(w, format->fit(w, {}))).in(*core::find_ggml_type(preset))) << preset;
  }
}

TEST(Presets, ContradictNothing) {
  EXPECT_EQ(weight_config("{preset: q4_0, bits: 4}").group_size, 32);
  EXPECT_THAT(message_of([] { weight_config("{preset: q2_0, bits: 3}"); }),
              HasSubstr("weight.bits is `3`, but preset: q2_0 means 2. Remove one of the two."));
  EXPECT_THAT(message_of([] { weight_config("{preset: q9}"); }), HasSubstr("it must be one of: q1_0, tq2_0, q2_0"));
}

// Of two bits signed_full has its fourth level on one side: a search over both never loses, and wins somewhere.
TEST(BothSigns, LeaveNoLargerError) {
  at::Tensor w = at::arange(64 * 64, at::kFloat).mul(0.7391).sin().abs().mul(-0.6).reshape({64, 64});
  w.select(1, 0).copy_(at::arange(64) * 0.02);  // the largest of some rows
  const auto error = [&](const std::string& search) {
    const auto format = quant::make_format(
        weight_config("{bits: 2, group_size: 64, symmetry: signed_full, range: mse, range_search: {norm: 2" + search +
                      "}}"),
        "", 64);
    const quant::Encoded encoded = format->encode(w, format->fit(w, {}));
    return (format->decode(encoded.codes, encoded.parameters) - w).square().sum(1);
  };
  const at::Tensor one = error(""), both = error(", both_signs: true");
  EXPECT_TRUE((both <= one).all().item<bool>());
  EXPECT_TRUE((both < 0.99 * one).any().item<bool>());
}

TEST(RoundedRows, FindTheSmallestTypeThatLosesNothing) {
  const auto name = [](const at::Tensor& w) { return std::string(exact_float_type({w})->name); };
  const at::Tensor w = at::arange(256, at::kFloat).mul(0.7391).sin().reshape({4, 64});
  EXPECT_EQ(name(w), "F32");
  EXPECT_EQ(name(w.to(at::kBFloat16).to(at::kFloat)), "BF16");
  EXPECT_EQ(name(w.to(at::kHalf).to(at::kFloat)), "F16");
  const core::GgmlType& q8_0 = *core::find_ggml_type("Q8_0");
  const RoundedRows rows = rows_of(w, q8_0);
  at::Tensor rounded = at::empty_like(w);
  q8_0.decode(rows.bytes.data(), 8, rounded.mutable_data_ptr<float>());
  EXPECT_GT(rows.error, 0);
  EXPECT_NEAR(rows.error, (rounded - w).square().sum().item<double>(), 1e-9);
  EXPECT_EQ(name(rounded), "Q8_0");
}

// ---- a model ----

class GoldenFolders : public testing::TestWithParam<std::string> {};

// Of every family one at least, but for those that llama.cpp computes otherwise.
std::vector<std::string> folders() {
  const std::set<std::string> refused{"qwen2_moe", "qwen2_yarn", "qwen3_sharded", "deepseek_v2", "deepseek_v2_yarn"};
  std::vector<std::string> all{std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf/qwen2_moe"};
  for (const std::string& name : golden_names()) {
    if (!refused.contains(name)) all.push_back(golden(name));
  }
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, GoldenFolders, testing::ValuesIn(folders()));

TEST_P(GoldenFolders, AreReadBackAsTheyWere) {
  const core::Scratch scratch, out;
  const std::string folder = with_tokenizer(scratch, GetParam());
  write(folder, out.file("m.gguf"));
  EXPECT_LE((logits_of(out.file("m.gguf")) - logits_of(folder)).abs().max().item<double>(), 1e-5);
}

// What llama.cpp's converter (convert_hf_to_gguf.py) writes of the same folder.
TEST_P(GoldenFolders, HaveTheKeysAndTensorsOfTheConverter) {
  const std::string converted = GetParam() + "/model.gguf";
  if (!std::filesystem::exists(converted)) GTEST_SKIP() << "no golden file";
  const core::Scratch scratch, out;
  const std::string folder = with_tokenizer(scratch, GetParam());
  write(folder, out.file("m.gguf"));
  const core::Gguf theirs = core::Gguf::open(converted), ours = core::Gguf::open(out.file("m.gguf"));
  const std::string architecture = theirs.text("general.architecture") + ".";
  EXPECT_EQ(ours.text("general.architecture") + ".", architecture);
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count",
        "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.dimension_count",
        "rope.scaling.factor", "rope.scaling.original_context_length", "expert_count", "expert_used_count",
        "expert_feed_forward_length", "expert_shared_feed_forward_length", "expert_shared_count",
        "expert_weights_scale", "leading_dense_block_count", "attention.kv_lora_rank"}) {
    if (!theirs.has(architecture + key)) continue;
    ASSERT_TRUE(ours.has(architecture + key)) << key;
    EXPECT_EQ(ours.number(architecture + key), theirs.number(architecture + key)) << key;
  }
  std::vector<std::string> names, wanted;
  for (const core::GgufTensor& tensor : theirs.tensors()) {
    wanted.push_back(tensor.name);
  }
  for (const core::GgufTensor& tensor : ours.tensors()) {
    names.push_back(tensor.name);
    const core::GgufTensor* other = theirs.find(tensor.name);
    if (other != nullptr) {
      EXPECT_EQ(tensor.shape, other->shape) << tensor.name;
    }
  }
  EXPECT_THAT(names, testing::UnorderedElementsAreArray(wanted));
}

// Keys and values from one latent, in one tensor as the folder has them.
TEST(GgufExport, HasLatentAttentionUnsplit) {
  const core::Scratch scratch, out;
  const std::string folder = with_tokenizer(scratch, golden("deepseek_v2_yarn"));
  EXPECT_THAT(refusal("gguf", *gguf(), open_to_export(folder)), HasSubstr("has one mscale for yarn"));
  auto config = nlohmann::json::parse(core::read_file(folder + "/config.json"));
  config["rope_scaling"]["mscale"] = config["rope_scaling"]["mscale_all_dim"];
  scratch.put("config.json", config.dump());
  write(folder, out.file("m.gguf"));
  EXPECT_NE(core::Gguf::open(out.file("m.gguf")).find("blk.0.attn_kv_b.weight"), nullptr);
  EXPECT_LE((logits_of(out.file("m.gguf")) - logits_of(folder)).abs().max().item<double>(), 1e-5);
}

TEST(GgufExport, RefusesWhatLlamaCppComputesOtherwise) {
  const auto refused = [](const std::string& name) {
    const core::Scratch scratch;
    return refusal("gguf", *gguf(), open_to_export(with_tokenizer(scratch, golden(name))));
  };
  EXPECT_THAT(refused("qwen2_moe"), HasSubstr("has a mixture in every block"));
  EXPECT_THAT(refused("qwen2_yarn"), HasSubstr("has heads that are together as wide as the model"));
  EXPECT_THAT(refused("qwen3_sharded"), HasSubstr("has no such biases"));
  EXPECT_THAT(refused("deepseek_v2"), HasSubstr("takes models of 26 and 27 blocks alone"));
}

struct Quantized {
  std::string model, quant, types;  // types: of quantized linears in the file
};
void PrintTo(const Quantized& q, std::ostream* out) { *out << q.quant; }
class QuantizedModels : public testing::TestWithParam<Quantized> {};

TEST_P(QuantizedModels, AreTheMeasuredModel) {
  const core::Scratch checkpoint, out;
  Opened model = opened(GetParam().model);
  save(model, GetParam().quant, checkpoint.path());
  const Written written = write(checkpoint.path(), out.file("m.gguf"));
  EXPECT_THAT(written.files, ElementsAre(out.file("m.gguf")));
  std::set<std::string> types;
  for (const WrittenTensor& tensor : written.tensors) {
    EXPECT_EQ(tensor.error, 0) << tensor.name;
    if (tensor.type.starts_with("Q") || tensor.type.starts_with("TQ")) types.insert(tensor.type);
  }
  EXPECT_EQ(fmt::format("{}", fmt::join(types, " ")), GetParam().types);
  EXPECT_TRUE(at::equal(logits_of(out.file("m.gguf")), logits_of(checkpoint.path())));
  EXPECT_EQ(core::parse_csv(core::read_file(out.file("m.tensors.csv")), "m").size(), written.tensors.size() + 1);
}

INSTANTIATE_TEST_SUITE_P(
    Types, QuantizedModels,
    testing::Values(
        Quantized{kDense, "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: signed_full}}", "Q2_0"},
        Quantized{kDense, "{method: rtn, weight: {bits: 4, group_size: 32}}", "Q5_0"},
        Quantized{kDense,
                  "{method: rtn, weight: {bits: 4, group_size: 32, symmetry: span}, rules: [{match: '*.down_proj', "
                  "weight: {bits: 16}}]}",
                  "Q4_0"},
        Quantized{kDense,
                  "{method: rtn, weight: {bits: 8, group_size: 32, symmetry: span}, rules: [{match: "
                  "model.embed_tokens, weight: {bits: 4}}]}",
                  "Q4_0 Q8_0"},
        Quantized{kMixture, "{method: rtn, weight: {bits: 3, group_size: 32}}", "Q4_0"},
        // experts of other bits: one type for all of a tensor
        Quantized{kMixture,
                  "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: span}, rules: [{match: '*.experts.3.*', "
                  "weight: {bits: 4}}]}",
                  "Q2_0 Q4_0"}));

// Its own file, written again, has the same blocks.
TEST(GgufExport, KeepsTheBlocksOfAFile) {
  for (const char* type : {"q4_0", "q8_0", "q4_1", "q5_1"}) {
    const core::Scratch out;
    const Written first = write(kDense, out.file("a.gguf"), fmt::format("{{embedding: {}}}", type));
    write(out.file("a.gguf"), out.file("b.gguf"));
    const core::Gguf a = core::Gguf::open(out.file("a.gguf")), b = core::Gguf::open(out.file("b.gguf"));
    EXPECT_GT(first.tensors[0].error, 0);
    ASSERT_EQ(a.tensors().size(), b.tensors().size());
    for (const core::GgufTensor& tensor : a.tensors()) {
      const core::GgufTensor* again = b.find(tensor.name);
      ASSERT_NE(again, nullptr) << tensor.name;
      ASSERT_EQ(again->type, tensor.type) << tensor.name;
      EXPECT_EQ(std::memcmp(again->data, tensor.data, tensor.bytes), 0) << tensor.name;
    }
  }
}

TEST(GgufExport, RoundsOnlyWhenItMay) {
  const core::Scratch checkpoint, out;
  Opened model = opened(kDense);
  save(model, "{method: rtn, weight: {bits: 2, group_size: 64, codebook: normal_float}}", checkpoint.path());
  EXPECT_THAT(message_of([&] { write(checkpoint.path(), out.file("m.gguf")); }),
              HasSubstr("no type holds 2 bits, group_size 64, codebook normal_float; allow_refit: true rounds it"));
  EXPECT_THAT(out.listing(), IsEmpty());
  const Written written = write(checkpoint.path(), out.file("m.gguf"), "{allow_refit: true}");
  const auto gguf = core::gguf_tensors(core::Gguf::open(out.file("m.gguf")));
  for (const WrittenTensor& tensor : written.tensors) {
    if (tensor.name != "blk.0.ffn_up.weight") continue;
    const at::Tensor w = model.model->slot("model.layers.0.mlp.up_proj").linear().weight();
    at::Tensor rounded = at::empty_like(w);
    gguf->stored("model.layers.0.mlp.up_proj.weight").decode(0, w.size(0), rounded.mutable_data_ptr<float>());
    EXPECT_EQ(tensor.type, "Q2_0");
    EXPECT_GT(tensor.error, 1e-4);
    EXPECT_NEAR(tensor.error, ((rounded - w).square().sum() / w.square().sum()).item<double>(), 1e-6);
  }
}

// Blocks that share codes have grids of their own: each is a whole weight.
TEST(GgufExport, HoldsSharedCodesOncePerBlock) {
  const core::Scratch checkpoint, out;
  Opened model = opened(kDense);
  save(model, "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: span}}", checkpoint.path(), {}, {},
       "{strategy: adjacent}");
  EXPECT_THAT(write(checkpoint.path(), out.file("m.gguf")).files, ElementsAre(out.file("m.gguf")));
  EXPECT_TRUE(at::equal(logits_of(out.file("m.gguf")), logits_of(checkpoint.path())));
}

TEST(GgufExport, SaysWhyNot) {
  const core::Scratch checkpoint, out;
  const auto refused = [&](const std::string& quant, const std::string& options = "{}",
                           const std::string& replication = "{}") {
    Opened model = opened(kDense);
    save(model, quant, checkpoint.path(), {}, {}, replication);
    const std::string message = message_of([&] { write(checkpoint.path(), out.file("m.gguf"), options); });
    EXPECT_THAT(out.listing(), IsEmpty());
    return message;
  };
  const std::string plain = "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: span}}";
  EXPECT_THAT(refused("{method: rtn, weight: {bits: 2, group_size: 64, incoherence: {hadamard: both}}}"),
              HasSubstr("quant.weight.incoherence rotates inputs and outputs"));
  EXPECT_THAT(refused("{method: rtn, weight: {bits: 4}, activation: {bits: 8}}"), HasSubstr("quant.activation"));
  EXPECT_THAT(refused(plain, "{type: q2_k}"), HasSubstr("rows of 128 weights are no whole blocks of Q2_K"));
  EXPECT_THAT(refused("{method: rtn, weight: {bits: 4, group_size: 32}}", "{type: q4_0}"),
              HasSubstr("Q4_0 does not hold its grid exactly"));
  EXPECT_THAT(refused(plain, "{sidecar: false}", "{strategy: depth, depth: {span: [1, 2]}}"),
              HasSubstr("its plan runs blocks several times"));
  EXPECT_THAT(
      refused("{method: ldlq, weight: {bits: 2, group_size: 64}}", "{sidecar: false}", "{strategy: parity_sign}"),
      HasSubstr("weights of replication.strategy"));
  EXPECT_THAT(message_of([&] { write(kDense, out.file("nowhere") + "/x/m.gguf"); }), "no error") << "folders are made";
  EXPECT_THAT(message_of([&] { write(kDense, "/proc/nowhere/m.gguf"); }), HasSubstr("this directory cannot be made"));
}

}  // namespace
}  // namespace exports
