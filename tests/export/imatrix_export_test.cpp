// Importance matrices: sums of squared inputs as plain loops find them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/gguf.h"
#include "core/text/load_tokenizer.h"
#include "core/text/windows.h"
#include "export/exporter.h"
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
