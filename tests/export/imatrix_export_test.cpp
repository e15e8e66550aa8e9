// Importance matrices: sums of squared inputs as plain loops find them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/gguf.h"
#include "core/io/gguf_writer.h"
#include "core/text/load_tokenizer.h"
#include "core/text/windows.h"
#include "export/exporter.h"
#include "quant/calibration/imatrix.h"
#include "tests/export/support.h"

namespace exports {
namespace {

using core::message_of;
using testing::ElementsAre;
using testing::HasSubstr;

const std::string kData = std::string(REFRAIN_SOURCE_DIR) + "/data/";
const std::string kText = kData + "corpora/tiny/test.txt";

core::Gguf imatrix_of(const core::Scratch& out, const std::string& model, const std::string& options) {
  core::Polymorphic<Exporter> exporter = make_exporters().at("imatrix");
  core::bind(core::parse_yaml(options, "a.yaml"), *exporter, "exports.imatrix");
  exported("imatrix", *exporter, open_to_export(model), out.file("i.gguf"));
  return core::Gguf::open(out.file("i.gguf"));
}

at::Tensor floats_of(const core::Gguf& file, const std::string& name) {
  const core::GgufTensor& tensor = *file.find(name);
  at::Tensor values = at::empty(tensor.shape);
  tensor.type->decode(tensor.data, values.numel(), values.mutable_data_ptr<float>());
  return values;
}

TEST(ImatrixExport, SumsTheSquaresOfInputs) {
  const at::NoGradGuard no_gradient;
  const core::Scratch out;
  const core::Gguf file = imatrix_of(out, kData + "tiny-qwen3", "{corpus: " + kText + ", seq_len: 16, windows: 3}");
  EXPECT_EQ(file.text("general.type"), "imatrix");
  EXPECT_THAT(file.texts("imatrix.datasets"), ElementsAre(kText));
  EXPECT_EQ(file.integer("imatrix.chunk_count"), 3);
  EXPECT_EQ(file.integer("imatrix.chunk_size"), 16);

  Opened model = opened(kData + "tiny-qwen3");
  const core::Windows text = core::make_windows(core::load_corpus(kText), *core::load_tokenizer(kData + "tiny-qwen3"),
                                                {.seq_len = 16, .windows = 3, .windows_from = core::kSpread});
  const at::Tensor ids = at::empty({3, 16}, at::kLong);
  std::copy(text.ids.begin(), text.ids.end(), ids.mutable_data_ptr<int64_t>());
  const at::Tensor x = model.model->embed(ids).reshape({48, -1});
  const at::Tensor w = model.weights.read("model.layers.0.input_layernorm.weight", {128}).tensor;
  at::Tensor sums = at::zeros({1, 128});
  for (int64_t t = 0; t < 48; ++t) {
    const double mean = x[t].square().mean().item<double>();
    sums[0] += (x[t] / std::sqrt(mean + 1e-6) * w).square();
  }
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"}) {
    EXPECT_LT(((floats_of(file, name + std::string(".in_sum2")) - sums) / sums).abs().max().item<double>(), 1e-5);
    EXPECT_TRUE(at::equal(floats_of(file, name + std::string(".counts")), at::full({1, 1}, 48.0f)));
  }
  EXPECT_EQ(file.tensors().size(), 2u * 7 * 6) << "seven linears in each of six blocks";
}

TEST(ImatrixExport, CountsTheTokensOfExperts) {
  const core::Scratch out;
  const core::Gguf file =
      imatrix_of(out, kData + "tiny-deepseek-moe", "{corpus: " + kText + ", seq_len: 8, windows: 1}");
  const auto config = core::read_hf_config(kData + "tiny-deepseek-moe");
  const int64_t experts = config.integer("n_routed_experts"), top = config.integer("num_experts_per_tok");
  const at::Tensor counts = floats_of(file, "blk.1.ffn_up_exps.weight.counts");
  ASSERT_THAT(counts.sizes(), ElementsAre(experts, 1));
  const at::Tensor sums = floats_of(file, "blk.1.ffn_up_exps.weight.in_sum2");
  EXPECT_TRUE((counts > 0).all().item<bool>());
  EXPECT_TRUE((sums.sum(1) > 0).all().item<bool>()) << "experts without tokens have the mean of the others";
  const double filled = (counts == 1).sum().item<double>();
  EXPECT_GE(counts.sum().item<double>(), static_cast<double>(8 * top));
  EXPECT_LE(counts.sum().item<double>(), static_cast<double>(8 * top) + filled);
  EXPECT_EQ(file.find("blk.1.ffn_gate_inp.weight.in_sum2"), nullptr) << "routers are not quantized";
}

// What is written is read as the mean squares that it was made from.
TEST(ImportanceMatrix, IsReadLinearByLinear) {
  const core::Scratch out;
  const core::Gguf file =
      imatrix_of(out, kData + "tiny-deepseek-moe", "{corpus: " + kText + ", seq_len: 8, windows: 2}");
  const quant::ImportanceMatrix matrix(out.file("i.gguf"));
  const Opened model = opened(kData + "tiny-deepseek-moe");
  const auto read = [&](const std::string& path) {
    return matrix.mean_square(model.model->shape().family, model.model->slot(path));
  };
  const at::Tensor experts =
      floats_of(file, "blk.1.ffn_down_exps.weight.in_sum2") / floats_of(file, "blk.1.ffn_down_exps.weight.counts");
  for (int64_t expert = 0; expert < experts.size(0); ++expert) {
    const std::string path = "model.layers.1.mlp.experts." + std::to_string(expert) + ".down_proj";
    EXPECT_TRUE(at::equal(read(path), experts[expert])) << path;
  }
  EXPECT_TRUE(
      at::equal(read("model.layers.0.self_attn.q_proj"), floats_of(file, "blk.0.attn_q.weight.in_sum2")[0] / 16));
  EXPECT_THAT(message_of([&] { read("model.layers.1.mlp.gate"); }),
              HasSubstr("i.gguf: there is no tensor blk.1.ffn_gate_inp.weight.in_sum2."));
}

// As llama.cpp's tool writes experts that no token reached: a count of 0.
TEST(ImportanceMatrix, FillsExpertsWithoutTokens) {
  const core::Scratch out;
  const Opened model = opened(kData + "tiny-deepseek-moe");
  const core::Slot& slot = model.model->slot("model.layers.1.mlp.experts.2.down_proj");
  const int64_t columns = slot.in_features();
  const auto put = [&](float count_of_two, float square) {
    const core::GgmlType& floats = *core::find_ggml_type("F32");
    core::GgufWriter file(out.path());
    std::vector<float> sums(static_cast<size_t>(3 * columns), square), counts{2, 8, count_of_two};
    file.add("blk.1.ffn_down_exps.weight.in_sum2", floats, {3, columns});
    file.append(std::as_bytes(std::span(sums)));
    file.add("blk.1.ffn_down_exps.weight.counts", floats, {3, 1});
    file.append(std::as_bytes(std::span(counts)));
    file.write(out.file("i.gguf"), {{"general.type", std::string("imatrix")}}, 1 << 30);
  };
  const auto read = [&] { return quant::ImportanceMatrix(out.file("i.gguf")).mean_square("deepseek", slot); };
  put(4, 8);
  EXPECT_TRUE(at::equal(read(), at::full({columns}, 2.0f)));
  put(0, 8);
  EXPECT_TRUE(at::equal(read(), at::full({columns}, 2.5f))) << "of 4 and 1";
  put(4, -1);
  EXPECT_THAT(message_of(read), HasSubstr("has a number that no sum of squares is"));
  EXPECT_THAT(message_of([&] { quant::ImportanceMatrix(kData + "tiny-qwen3/config.json"); }), HasSubstr("GGUF"));
}

TEST(ImatrixExport, SaysWhatIsMissing) {
  const core::Scratch out;
  const auto refused = [&](const std::string& options) {
    return message_of([&] { imatrix_of(out, kData + "tiny-qwen3", options); });
  };
  EXPECT_THAT(refused("{}"), HasSubstr("exports.imatrix.corpus is missing"));
  EXPECT_THAT(refused("{corpus: nowhere.txt}"), HasSubstr("nowhere.txt"));
  EXPECT_THAT(refused("{corpus: " + kText + ", seq_len: 100000}"), HasSubstr("the model's context 2048"));
  EXPECT_TRUE(out.listing().empty());
}

}  // namespace
}  // namespace exports
