// Models with replicas in GGUF files: with a sidecar the very model that was measured, without one what stock llama.cpp
// runs.
#include "core/io/gguf_sidecar.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "tests/export/gguf_support.h"

namespace exports {
namespace {

using core::message_of;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

constexpr const char* kTwoBits = "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: signed_full}}";
constexpr const char* kWindows = "{method: ldlq, weight: {bits: 2, group_size: 64}}";
constexpr const char* kDepth = "{strategy: depth, depth: {span: [1, 2], passes: 3, jitter: 0.05, gate_init: 0.3}}";
constexpr const char* kOwnKeys = "{strategy: depth, depth: {span: [1, 2], jitter: 0.05, gate_init: 0.3, kv: own}}";

struct ReplicatedModel {
  std::string model, replication;
  std::string quant = kTwoBits;
};
void PrintTo(const ReplicatedModel& r, std::ostream* out) { *out << r.replication; }

std::string checkpoint_of(const ReplicatedModel& asked, const std::string& folder) {
  Opened model = opened(asked.model);
  save(model, asked.quant, folder, {}, {}, asked.replication, {.parameters = true, .norms = true});
  return folder;
}

class Sidecars : public testing::TestWithParam<ReplicatedModel> {};

TEST_P(Sidecars, AreTheMeasuredModelBesideTheirBase) {
  const core::Scratch checkpoint, out;
  checkpoint_of(GetParam(), checkpoint.path());
  const std::string base = out.file("m.gguf"), sidecar = out.file("m.refrain.gguf");
  EXPECT_THAT(write(checkpoint.path(), base).files, ElementsAre(base, sidecar));
  EXPECT_TRUE(is_quantized_checkpoint(sidecar));
  EXPECT_FALSE(is_quantized_checkpoint(base));
  EXPECT_TRUE(at::equal(logits_of(sidecar), logits_of(checkpoint.path())));
  EXPECT_TRUE(logits_of(base).isfinite().all().item<bool>());  // the model that stock llama.cpp runs
}

INSTANTIATE_TEST_SUITE_P(
    Strategies, Sidecars,
    testing::Values(
        ReplicatedModel{kDense, kDepth},
        ReplicatedModel{kDense, "{strategy: depth, depth: {span: [0, 3], order: span, damped: true}}"},
        ReplicatedModel{kDense, kDepth, "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: midrise}}"},
        ReplicatedModel{kDense, kDepth, "{method: rtn, weight: {bits: 3, group_size: 64}}"},
        ReplicatedModel{kDense, "{strategy: parity_sign}", kWindows},
        ReplicatedModel{kDense, "{strategy: row_column}", "{method: rtn, weight: {bits: 2, group_size: -1}}"},
        ReplicatedModel{kDense, "{strategy: low_rank, low_rank: {rank: 4}}"},
        ReplicatedModel{kDense, "{strategy: parallel, parallel: {replicas: 2}}"}, ReplicatedModel{kMixture, kDepth},
        ReplicatedModel{kMixture, "{strategy: parity_sign}", kWindows}));

// What a base holds exactly, the sidecar does not repeat.
TEST(Sidecar, HasNoCodesThatTheBaseHas) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kDense, kDepth}, checkpoint.path());
  write(checkpoint.path(), out.file("m.gguf"));
  const core::Gguf sidecar = core::Gguf::open(out.file("m.refrain.gguf"));
  EXPECT_EQ(sidecar.find("refrain.blk.1.mlp.up_proj.codes"), nullptr);
  EXPECT_NE(sidecar.find("refrain.blk.1.mlp.up_proj.scale"), nullptr);
  EXPECT_NE(sidecar.find("refrain.blk.1.r2.mlp.up_proj.scale"), nullptr);
  EXPECT_NE(sidecar.find("refrain.blk.1.r2.input_layernorm.weight"), nullptr);
  EXPECT_NE(sidecar.find("refrain.blk.1.r2.mlp_gate"), nullptr);
  EXPECT_EQ(sidecar.texts("refrain.codes.tensors").size(), 42);
  EXPECT_EQ(sidecar.integers("refrain.codes.factor").front(), -1);  // Q2_0 has its levels the other way round
  EXPECT_EQ(sidecar.integers("refrain.codes.offset").front(), 3);
}

// The model of both is exported as it was; a base may be split.
TEST(Sidecar, IsWrittenAgainFromItself) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kMixture, kDepth}, checkpoint.path());
  write(checkpoint.path(), out.file("a.gguf"));
  const Written split = write(out.file("a.refrain.gguf"), out.file("b.gguf"), "{split_above: 0.0005}");
  EXPECT_GE(split.files.size(), 3u);
  EXPECT_EQ(core::Gguf::open(split.files.back()).text("refrain.base"),
            std::filesystem::path(split.files.front()).filename().string());
  EXPECT_TRUE(at::equal(logits_of(out.file("b.refrain.gguf")), logits_of(checkpoint.path())));
}

// ---- written out ----

TEST(WrittenOut, RunsEveryPassAsABlockOfItsOwn) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kDense, kOwnKeys}, checkpoint.path());
  const Written written = write(checkpoint.path(), out.file("m.gguf"), "{blocks: written_out}");
  EXPECT_THAT(written.files, ElementsAre(out.file("m.gguf")));
  const core::Gguf file = core::Gguf::open(out.file("m.gguf"));
  EXPECT_EQ(file.integer("qwen3.block_count"), 8);
  EXPECT_EQ(file.find("blk.7.ffn_down.weight")->type->name, std::string("Q2_0"));
  double largest = 0;  // of a scale, rounded to float16 when it is multiplied by its gate
  for (const WrittenTensor& tensor : written.tensors) {
    EXPECT_EQ(tensor.error > 0, tensor.name == "blk.2.attn_output.weight" || tensor.name == "blk.2.ffn_down.weight" ||
                                    tensor.name == "blk.4.attn_output.weight" || tensor.name == "blk.4.ffn_down.weight")
        << tensor.name;
    largest = std::max(largest, tensor.error);
  }
  EXPECT_LE(std::sqrt(largest), std::exp2(-11));
  const at::Tensor measured = logits_of(checkpoint.path());
  EXPECT_LE((logits_of(out.file("m.gguf")) - measured).norm().item<double>(), 2e-3 * measured.norm().item<double>());
}

// A pass of one half of a block, the others damped.
TEST(WrittenOut, LeavesAHalfOut) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kMixture, "{strategy: depth, depth: {span: [1, 2], kv: own, part: mlp, damped: true}}"},
                checkpoint.path());
  write(checkpoint.path(), out.file("m.gguf"), "{blocks: written_out}");
  const at::Tensor measured = logits_of(checkpoint.path());
  EXPECT_LE((logits_of(out.file("m.gguf")) - measured).norm().item<double>(), 2e-3 * measured.norm().item<double>());
}

// ---- what is refused ----

std::string refused(const ReplicatedModel& asked, const std::string& options) {
  const core::Scratch checkpoint;
  checkpoint_of(asked, checkpoint.path());
  return refusal("gguf", *gguf(options), open_to_export(checkpoint.path()));
}

// Experts of several widths in one tensor of the base, which has one rule for all codes.
TEST(Sidecar, HoldsTheCodesOfExpertsThatDifferInBits) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kMixture, kDepth,
                 "{method: rtn, weight: {bits: 2, group_size: 32, symmetry: asymmetric, zero_point: min}, rules: "
                 "[{match: '*.experts.3.*', weight: {bits: 3}}]}"},
                checkpoint.path());
  write(checkpoint.path(), out.file("m.gguf"));
  EXPECT_TRUE(at::equal(logits_of(out.file("m.refrain.gguf")), logits_of(checkpoint.path())));
}

TEST(Sidecar, IsNamedWhereItIsMissing) {
  EXPECT_THAT(refused({kDense, kDepth}, "{embedding: q8_0}"),
              HasSubstr("exports.gguf.embedding rounds what the sidecar does not hold; leave it auto"));
  EXPECT_THAT(refused({kDense, kDepth}, "{sidecar: false}"),
              HasSubstr("its plan runs blocks several times, and stock llama.cpp runs each once; sidecar: true"));
  EXPECT_THAT(refused({kDense, "{strategy: parity_sign}", kWindows}, "{sidecar: false}"),
              HasSubstr("no type holds weights of replication.strategy parity_sign; allow_refit: true"));
  EXPECT_THAT(refused({kDense, kDepth}, "{blocks: written_out}"), HasSubstr("kv: own can be written out"));
  EXPECT_THAT(refused({kDense, kOwnKeys}, "{blocks: written_out}"), IsEmpty());
}

// A file of a sidecar with one key replaced, a text of the same length.
void replace_in(const std::string& file, const std::string& from, const std::string& to) {
  std::string bytes = core::read_file(file);
  bytes.replace(bytes.find(from), from.size(), to);
  core::write_atomically(file, bytes);
}

TEST(Sidecar, SaysWhatIsWrongWithIt) {
  const core::Scratch checkpoint, out;
  checkpoint_of({kDense, kDepth}, checkpoint.path());
  const std::string base = out.file("m.gguf"), sidecar = out.file("m.refrain.gguf");
  write(checkpoint.path(), base);
  const auto message = [&] { return message_of([&] { logits_of(sidecar); }); };
  const std::string whole = core::read_file(sidecar);

  replace_in(sidecar, "m.gguf", "x.gguf");
  EXPECT_THAT(message(), HasSubstr("m.refrain.gguf: x.gguf, which it stands beside, is missing. Put it there."));
  core::write_atomically(sidecar, whole);
  replace_in(sidecar, "m.gguf", "/.gguf");
  EXPECT_THAT(message(), HasSubstr("refrain.base is `/.gguf`, not a file beside it"));
  core::write_atomically(sidecar, whole);
  replace_in(sidecar, "\"schema\":1", "\"schema\":9");
  EXPECT_THAT(message(), HasSubstr("schema"));
  core::write_atomically(sidecar, whole);
  replace_in(sidecar, "refrain.blk.1.r2.mlp.up_proj.scale", "refrain.blk.1.r2.mlp.up_proj.scalf");
  EXPECT_THAT(message(), HasSubstr("model.layers.1.replica2.mlp.up_proj.scale"));
  core::write_atomically(sidecar, whole);
  replace_in(sidecar, "qwen3", "llama");
  EXPECT_THAT(message(), HasSubstr("it stands beside a model of the architecture llama"));
  core::write_atomically(sidecar, whole);
  replace_in(sidecar, "blk.0.attn_q.weight", "blk.0.attn_z.weight");
  EXPECT_THAT(message(), HasSubstr("model.layers.0.self_attn.q_proj.codes"));
  core::write_atomically(sidecar, whole);

  // the base of another model, of the same shapes
  const core::Scratch elsewhere;
  checkpoint_of({kDense, kDepth, "{method: rtn, weight: {bits: 2, group_size: 64, symmetry: span}}"}, elsewhere.path());
  write(elsewhere.path(), base);
  core::write_atomically(sidecar, whole);
  EXPECT_THAT(message(), HasSubstr("m.gguf is not the file that it was written beside."));
}

}  // namespace
}  // namespace exports
