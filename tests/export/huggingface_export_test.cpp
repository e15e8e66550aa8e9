// Hugging Face folders that we write are read back as the measured model, or refused.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/files.h"
#include "export/exporter.h"
#include "tests/export/support.h"

namespace exports {
namespace {

using core::message_of;
using testing::HasSubstr;
using testing::IsEmpty;

const std::string kSmallDense = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";
const std::string kSmallMixture = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-deepseek-moe";

Written write_folder(const std::string& model, const std::string& to, const std::string& options) {
  core::Polymorphic<Exporter> exporter = make_exporters().at("huggingface");
  core::bind(core::parse_yaml(options, "a.yaml"), *exporter, "exports.huggingface");
  return exported("huggingface", *exporter, open_to_export(model), to);
}

class DequantizedFolders : public testing::TestWithParam<std::string> {};

TEST_P(DequantizedFolders, AreTheMeasuredModel) {
  for (const char* quant : {"{method: rtn, weight: {bits: 3, group_size: 32}}",
                            "{method: ldlq, weight: {bits: 2, group_size: 64, incoherence: {hadamard: both}}}"}) {
    const core::Scratch checkpoint, out;
    Opened model = opened(GetParam());
    save(model, quant, checkpoint.path());
    const Written written = write_folder(checkpoint.path(), out.file("folder"), "{dtype: float32}");
    for (const WrittenTensor& tensor : written.tensors) EXPECT_EQ(tensor.error, 0) << tensor.name;
    const at::Tensor expected = opened(checkpoint.path()).logits();
    EXPECT_LE((opened(out.file("folder")).logits() - expected).abs().max().item<double>(),
              1e-4 * expected.abs().max().item<double>());
    EXPECT_FALSE(std::filesystem::exists(out.file("folder.part")));
  }
}
INSTANTIATE_TEST_SUITE_P(Tiny, DequantizedFolders, testing::Values(kSmallDense, kSmallMixture));

TEST(HuggingFaceExport, StatesWhatRoundingCosts) {
  const core::Scratch checkpoint, out;
  Opened model = opened(kSmallDense);
  save(model, "{method: rtn, weight: {bits: 4, group_size: 64}}", checkpoint.path());
  for (const WrittenTensor& tensor : write_folder(checkpoint.path(), out.file("folder"), "{}").tensors) {
    if (tensor.name != "model.layers.2.mlp.up_proj.weight") continue;
    const at::Tensor w = model.model->slot("model.layers.2.mlp.up_proj").linear().weight();
    const at::Tensor rounded = w.to(at::kBFloat16).to(at::kFloat);
    EXPECT_GT(tensor.error, 0);
    EXPECT_NEAR(tensor.error, ((rounded - w).square().sum() / w.square().sum()).item<double>(), 1e-9);
  }
}

TEST(HuggingFaceExport, SaysWhyNot) {
  const core::Scratch checkpoint, out;
  const auto refused = [&](const std::string& quant, const std::string& options,
                           const std::string& replication = "{}") {
    Opened model = opened(kSmallDense);
    save(model, quant, checkpoint.path(), {}, {}, replication);
    const std::string message = message_of([&] { write_folder(checkpoint.path(), out.file("folder"), options); });
    EXPECT_THAT(out.listing(), IsEmpty());
    return message;
  };
  const std::string gptq = "{format: gptq}", ct = "{format: compressed_tensors}";
  EXPECT_THAT(refused("{method: rtn, weight: {symmetry: midrise}}", gptq), HasSubstr("midrise has no level 0"));
  EXPECT_THAT(refused("{method: rtn, weight: {zero_point: float}}", ct), HasSubstr("zero_point: float is no integer"));
  EXPECT_THAT(refused("{method: rtn, weight: {bits: 5}}", gptq), HasSubstr("5 bits are none that it stores"));
  EXPECT_THAT(refused("{method: rtn, weight: {bits: 3}}", ct), HasSubstr("3 bits are none that it stores"));
  EXPECT_THAT(refused("{method: rtn, rules: [{match: '*.up_proj', weight: {bits: 3}}]}", gptq),
              HasSubstr("linears differ in bits, groups or symmetry"));
  EXPECT_THAT(refused("{method: rtn, weight: {incoherence: {hadamard: input}}}", gptq),
              HasSubstr("incoherence rotates"));
  EXPECT_THAT(refused("{method: rtn, activation: {bits: 8}}", "{}"), HasSubstr("quant.activation"));
  EXPECT_THAT(refused("{method: rtn}", "{}", "{strategy: depth, depth: {span: [1, 2]}}"),
              HasSubstr("its plan runs blocks several times"));
  EXPECT_THAT(message_of([&] { write_folder(kSmallDense, out.file("folder"), gptq); }),
              HasSubstr("nothing in it is quantized"));
  core::create_directories(out.file("folder"));
  EXPECT_THAT(message_of([&] { write_folder(kSmallDense, out.file("folder"), "{}"); }),
              HasSubstr("it is there already"));
}

// Linears that stay as they are are named, so that nobody looks for codes of them.
TEST(HuggingFaceExport, NamesWhatHasNoCodes) {
  const core::Scratch checkpoint, out;
  Opened model = opened(kSmallDense);
  save(model, "{method: rtn, rules: [{match: '*.3.mlp.up_proj', weight: {bits: 16}}]}", checkpoint.path());
  write_folder(checkpoint.path(), out.file("a"), "{format: gptq}");
  EXPECT_THAT(core::read_file(out.file("a") + "/config.json"),
              HasSubstr(R"("-:^model\\.layers\\.3\\.mlp\\.up_proj$": {})"));
  write_folder(checkpoint.path(), out.file("b"), "{format: compressed_tensors}");
  EXPECT_THAT(core::read_file(out.file("b") + "/config.json"), HasSubstr(R"("model.layers.3.mlp.up_proj")"));
}

}  // namespace
}  // namespace exports
