// The proofs of what is under exports.
#include <fmt/ranges.h>

#include <filesystem>
#include <set>

#include "core/io/files.h"
#include "core/io/gguf.h"
#include "core/io/safetensors.h"
#include "tests/experiments/keys.h"

namespace experiments {

namespace {

namespace fs = std::filesystem;

class ExportProof : public Proof {
 public:
  Proofs all() {
    return {
        {"exports.gguf.path", [this] { export_path(); }},
        {"exports.gguf.type", [this] { EXPECT_EQ(exported("type: q4_0"), "BF16 F32 Q4_0"); }},
        {"exports.gguf.allow_refit", [this] { allow_refit(); }},
        {"exports.gguf.embedding", [this] { EXPECT_EQ(exported("embedding: q8_0"), "F32 Q2_0 Q8_0"); }},
        {"exports.gguf.split_above", [this] { split_above(); }},
        {"exports.gguf.sidecar", [this] { sidecar(); }},
        {"exports.gguf.blocks", [this] { written_out(); }},
        {"exports.imatrix.path", [this] { EXPECT_EQ(imatrix().text("general.type"), "imatrix"); }},
        {"exports.imatrix.corpus",
         [this] { EXPECT_EQ(imatrix().texts("imatrix.datasets").at(0), lab_.file("text.txt")); }},
        {"exports.imatrix.seq_len", [this] { EXPECT_EQ(imatrix("seq_len: 24").integer("imatrix.chunk_size"), 24); }},
        {"exports.imatrix.windows",
         [this] { EXPECT_EQ(imatrix("windows: 5, seq_len: 32").integer("imatrix.chunk_count"), 5); }},
        {"exports.huggingface.path", [this] { EXPECT_TRUE(fs::exists(folder("dtype: float16") + "/config.json")); }},
        {"exports.huggingface.format",
         [this] {
           EXPECT_THAT(tensors("format: gptq"), ::testing::HasSubstr("self_attn.q_proj.qweight"));
           EXPECT_THAT(tensors("format: compressed_tensors", "{bits: 4, group_size: 64}"),
                       ::testing::HasSubstr("self_attn.q_proj.weight_packed"));
         }},
        {"exports.huggingface.dtype",
         [this] {
           const core::Checkpoint written = core::Checkpoint::open(folder("dtype: float16"));
           EXPECT_EQ(written.at("model.norm.weight").dtype, core::DType::F16);
         }},
    };
  }

 private:
  // The types of a run's tensors in its GGUF file.
  std::string exported(const std::string& options, const std::string& grid = "symmetry=signed_full") {
    const std::string file = lab_.file("exported.gguf");
    const Json row = lab_.row({"quant.weight." + grid, "exports.gguf={path: " + file + ", " + options + "}"});
    EXPECT_EQ(row["id"], lab_.id({"quant.weight." + grid})) << "an export changes no result";
    std::set<std::string> types;
    const core::Gguf gguf = core::Gguf::open(file);
    for (const core::GgufTensor& tensor : gguf.tensors()) types.insert(tensor.type->name);
    return fmt::format("{}", fmt::join(types, " "));
  }
  // The matrix of a run with these options.
  core::Gguf imatrix(const std::string& options = "seq_len: 32") {
    const std::string made = lab_.file(fmt::format("imatrix{}.gguf", folders_++));
    lab_.row({"exports.imatrix={path: " + made + ", corpus: " + lab_.file("text.txt") + ", " + options + "}"});
    return core::Gguf::open(made);
  }
  // The folder of a run with these options.
  std::string folder(const std::string& options, const std::string& weight = "{bits: 2, group_size: 64}") {
    const std::string made = lab_.file(fmt::format("folder{}", folders_++));
    lab_.row({"quant.weight=" + weight, "exports.huggingface={path: " + made + ", " + options + "}"});
    return made;
  }
  std::string tensors(const std::string& options, const std::string& weight = "{bits: 2, group_size: 64}") {
    return fmt::format("{}", fmt::join(core::Checkpoint::open(folder(options, weight)).names(), " "));
  }
  // In the run directory unless it is said where to; also of a run that was finished before.
  void export_path() {
    const Strings plain{"quant.weight.symmetry=signed_full"}, asked{plain[0], "exports.gguf={}"};
    const std::string file = lab_.directory(lab_.row(plain)) + "/model.gguf";
    EXPECT_FALSE(fs::exists(file));
    lab_.row(asked);
    EXPECT_TRUE(fs::exists(file));
    const auto written = fs::last_write_time(file);
    lab_.row(asked);
    EXPECT_EQ(fs::last_write_time(file), written) << "it was there";
    lab_.row(asked, /*force=*/true);
    EXPECT_NE(fs::last_write_time(file), written) << "the run was made anew";
    // A copied results folder has files of its own, which are written again without those of the first.
    fs::copy(lab_.out(), lab_.file("copy"), fs::copy_options::recursive);
    lab_.row({plain[0], "exports.gguf={type: q4_0}", "out=" + lab_.file("copy")});
    EXPECT_TRUE(fs::exists(file));
    const Strings folder{plain[0], "exports.huggingface={}"};
    lab_.row(folder);
    lab_.row(folder, /*force=*/true);
    EXPECT_EQ(exported("type: auto"), "BF16 F32 Q2_0");
    EXPECT_THAT(core::message_of([&] {
                  lab_.run({"exports.gguf={path: x.gguf}", "sweep.grid={quant.weight.symmetry: [span, narrow]}"});
                }),
                ::testing::HasSubstr("several runs would write x.gguf"));
    EXPECT_THAT(core::message_of([&] {
                  lab_.run({asked[0], asked[1], "checkpoint=discard"});
                }),
                ::testing::HasSubstr("Use checkpoint: keep"));
  }
  void allow_refit() {
    const std::string table = "codebook=normal_float";
    EXPECT_THAT(core::message_of([&] { exported("allow_refit: false", table); }),
                ::testing::HasSubstr("no type holds"));
    EXPECT_EQ(exported("allow_refit: true", table), "BF16 F32 Q2_0");
  }
  void sidecar() {
    Strings run = kDepth;
    run.insert(run.end(), {"quant.weight.symmetry=signed_full", "exports.gguf={}"});
    const std::string directory = lab_.directory(lab_.row(run));
    EXPECT_TRUE(fs::exists(directory + "/model.refrain.gguf"));
    run.back() = "exports.gguf={sidecar: false}";
    EXPECT_THAT(core::message_of([&] { lab_.run(run); }), ::testing::HasSubstr("sidecar: true or blocks: written_out"));
  }
  void written_out() {
    Strings run = kDepth;
    run.insert(run.end(), {"replication.depth.kv=own", "quant.weight.symmetry=signed_full", "exports.gguf={}"});
    const std::string directory = lab_.directory(lab_.row(run));
    EXPECT_TRUE(fs::exists(directory + "/model.refrain.gguf"));
    const auto blocks = [&] { return core::Gguf::open(directory + "/model.gguf").integer("qwen3.block_count"); };
    const int64_t once = blocks();
    run.back() = "exports.gguf={blocks: written_out}";
    lab_.row(run);
    EXPECT_FALSE(fs::exists(directory + "/model.refrain.gguf")) << "it was of the file that is no more";
    EXPECT_EQ(blocks(), 2 * once);
  }
  void split_above() {
    lab_.row({"quant.weight.symmetry=signed_full",
              "exports.gguf={split_above: 0.0001, path: " + lab_.file("parts.gguf") + "}"});
    const Strings files = lab_.listing();
    EXPECT_GE(
        std::count_if(files.begin(), files.end(), [](const auto& file) { return file.starts_with("parts-0000"); }), 2);
  }

  const Strings kDepth{"replication.strategy=depth", "replication.depth.gate_init=0.5"};
  int folders_ = 0;
};

}  // namespace

Proofs proofs_of_exports() { return proofs_of<ExportProof>(); }

}  // namespace experiments
