// Codes of a GGUF file on grids of ours: what they decode to is what the file decodes to, bit for bit.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/io/gguf.h"
#include "core/io/model_path.h"
#include "quant/config.h"
#include "quant/grids/make_format.h"
#include "tests/io/gguf_bytes.h"
#include "tests/io/support.h"

namespace quant {
namespace {

using core::message_of;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int64_t kRows = 3, kColumns = 512;

// tests/golden/gguf/types.gguf: random blocks of every element type, [3, 512].
const core::Gguf& golden() {
  static const core::Gguf file = core::Gguf::open(std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf/types.gguf");
  return file;
}

std::string bytes_of(const core::GgufTensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data), tensor.bytes};
}

QuantConfig config_of(const std::string& yaml) {
  QuantConfig config;
  core::bind(core::parse_yaml(yaml, "a.yaml"), config, "quant");
  return config;
}

class StoredCodes : public testing::Test {
 protected:
  StoredCodes() {
    file_.key("general.architecture", std::string("llama"));
    file_.key("llama.embedding_length", uint32_t{8});
    file_.key("llama.attention.head_count", uint32_t{2});
  }
  // up_proj of block i has the tensor's blocks.
  void put(int64_t i, const core::GgufTensor& tensor) {
    file_.tensor(fmt::format("blk.{}.ffn_up.weight", i), {kRows, kColumns}, tensor.type->id, bytes_of(tensor));
  }
  static std::shared_ptr<core::Slot> up_proj(int64_t i, int64_t rows = kRows) {
    return std::make_shared<core::Slot>(fmt::format("model.layers.{}.mlp.up_proj", i), core::Role::up_proj, rows,
                                        kColumns, false);
  }
  // Written with what has been put.
  const std::string& path() {
    if (path_.empty()) path_ = scratch_.put("m.gguf", file_.bytes());
    return path_;
  }
  QuantConfig config() { return config_of(fmt::format("{{method: stored, stored: {{file: {}}}}}", path())); }

  static Encoded encoded(const Method& method, const core::Slot& slot) {
    const auto format = make_format(method.brought(slot)->grid, slot.path(), slot.in_features());
    return method.encoded(slot, *format);
  }
  static at::Tensor decoded(const Method& method, const core::Slot& slot) {
    const Encoded found = encoded(method, slot);
    return make_format(method.brought(slot)->grid, slot.path(), slot.in_features())
        ->decode(found.codes, found.parameters);
  }
  at::Tensor decoded_by_file(const core::Slot& slot) {
    const at::Tensor w = at::empty({slot.out_features(), slot.in_features()});
    core::open_tensors(path())->stored(slot.path() + ".weight").decode(0, w.size(0), w.mutable_data_ptr<float>());
    return w;
  }

  core::GgufBytes file_;
  core::Scratch scratch_;
  std::string path_;
};

TEST_F(StoredCodes, OfEveryTypeAreAGridOfOursBitForBit) {
  int64_t types = 0;
  for (const core::GgufTensor& tensor : golden().tensors()) {
    if (tensor.type->take_apart != nullptr) put(types++, tensor);
  }
  EXPECT_EQ(types, 13);
  const QuantConfig config = this->config();
  int64_t i = 0;
  for (const core::GgufTensor& tensor : golden().tensors()) {
    if (tensor.type->take_apart == nullptr) continue;
    SCOPED_TRACE(tensor.type->name);
    const auto slot = up_proj(i++);
    const at::Tensor found = decoded(config.chosen(), *slot), wanted = decoded_by_file(*slot);
    EXPECT_TRUE(at::equal(found, wanted)) << "largest difference " << (found - wanted).abs().max();
    EXPECT_GT(wanted.abs().max().item<double>(), 0);
    const Encoded encoded = this->encoded(config.chosen(), *slot);
    const int64_t weights = kRows * kColumns, codes = config.chosen().brought(*slot)->grid.bits * weights;
    EXPECT_EQ(static_cast<double>(codes + parameter_bits(encoded.parameters)),
              tensor.type->bits() * static_cast<double>(weights));
  }
}

// What kernels and methods see of the grid is the same up to float32.
TEST_F(StoredCodes, AreTheElementGridOfTheirFormat) {
  int64_t count = 0;
  for (const char* name : {"Q2_K", "Q3_K", "Q4_1", "Q2_0"}) put(count++, *golden().find(name));
  const QuantConfig config = this->config();
  for (int64_t i = 0; i < count; ++i) {
    const auto slot = up_proj(i);
    const Encoded encoded = this->encoded(config.chosen(), *slot);
    const auto format = make_format(config.chosen().brought(*slot)->grid, slot->path(), kColumns);
    const at::Tensor by_grid = format->element_grid(encoded.parameters, kRows, kColumns).decode(encoded.codes);
    const at::Tensor w = decoded_by_file(*slot);
    EXPECT_TRUE(at::allclose(by_grid, w, 1e-5, 1e-5 * w.abs().max().item<double>())) << i;
  }
}

TEST_F(StoredCodes, OfHeadsComeInTheOrderOfRows) {
  const core::GgufTensor& tensor = *golden().find("Q4_0");
  const std::string rows = bytes_of(tensor);
  file_.tensor("blk.0.attn_q.weight", {4, kColumns}, tensor.type->id, rows + rows.substr(0, tensor.row_bytes()));
  const core::Slot slot("model.layers.0.self_attn.q_proj", core::Role::q_proj, 4, kColumns, false);
  const QuantConfig config = this->config();
  EXPECT_TRUE(at::equal(decoded(config.chosen(), slot), decoded_by_file(slot)));
}

TEST_F(StoredCodes, ATiedHeadHasThoseOfTheEmbedding) {
  const core::GgufTensor& tensor = *golden().find("Q8_0");
  file_.tensor("token_embd.weight", {kRows, kColumns}, tensor.type->id, bytes_of(tensor));
  const QuantConfig config = this->config();
  const core::Slot embedding("model.embed_tokens", core::Role::embed_tokens, kRows, kColumns, false),
      head("lm_head", core::Role::lm_head, kRows, kColumns, false);
  EXPECT_EQ(config.chosen().brought(embedding)->place, config.chosen().brought(head)->place);
}

TEST_F(StoredCodes, FloatsStayInFullPrecision) {
  put(0, *golden().find("F16"));
  EXPECT_FALSE(config().chosen().brought(*up_proj(0)).has_value());
}

TEST_F(StoredCodes, MistakesHaveTheirLine) {
  put(0, *golden().find("IQ4_NL"));
  put(1, *golden().find("Q4_0"));
  const QuantConfig config = this->config();
  EXPECT_THAT(message_of([&] { config.chosen().brought(*up_proj(0)); }),
              HasSubstr("model.layers.0.mlp.up_proj.weight is IQ4_NL in "));
  EXPECT_THAT(message_of([&] { config.chosen().brought(*up_proj(1, /*rows=*/5)); }),
              HasSubstr("is [3, 512] in " + path() + ", and [5, 512] in the model. Give the GGUF of this model."));
  EXPECT_THAT(message_of([&] { config_of("{method: stored}").chosen().brought(*up_proj(1)); }),
              HasSubstr("stored.file: it is missing."));
  EXPECT_THAT(message_of([&] { config_of("{method: stored, weight: {bits: 2}}"); }),
              StartsWith("a.yaml:1: quant.weight.bits is not read with quant.method: stored"));
  EXPECT_THAT(message_of([&] { config_of("{method: stored, rules: [{match: '*', weight: {bits: 3}}]}"); }),
              HasSubstr("a rule can say bits: 16"));
}

}  // namespace
}  // namespace quant
