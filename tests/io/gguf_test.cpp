// GGUF files: what every element type decodes to, bit for bit as its reference; what the keys become; what is refused.
#include "core/io/gguf.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <map>

#include "core/io/gguf_model.h"
#include "core/io/hf_config.h"
#include "core/io/model_path.h"
#include "core/io/safetensors.h"
#include "tests/io/gguf_bytes.h"
#include "tests/io/support.h"

namespace core {
namespace {

const std::string kGolden = std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/gguf";

// tools/make_golden_gguf.py: the gguf package and ggml itself.
TEST(GgmlTypes, DecodeBitForBitAsTheirReference) {
  const Gguf file = Gguf::open(kGolden + "/types.gguf");
  const Checkpoint expected = Checkpoint::open(kGolden + "/types.safetensors");
  size_t readable = 0;
  for (uint32_t id = 0; id < 64; ++id) {
    const GgmlType* type = find_ggml_type(id);
    if (type == nullptr || type->decode == nullptr) continue;
    ++readable;
    const GgufTensor* tensor = file.find(type->name);
    ASSERT_NE(tensor, nullptr) << type->name << " has no golden blocks. Add it to tools/make_golden_gguf.py.";
    std::vector<float> values(3 * 512);
    type->decode(tensor->data, std::ssize(values) / type->block, values.data());
    const TensorView& wanted = expected.at(type->name);
    ASSERT_EQ(wanted.bytes, values.size() * sizeof(float));
    EXPECT_EQ(std::memcmp(values.data(), wanted.data, wanted.bytes), 0) << type->name;
  }
  EXPECT_EQ(readable, file.tensors().size());
}

TEST(GgmlTypes, HalvesAreIeee) {
  EXPECT_EQ(float_of_half(0x3C00), 1.0f);
  EXPECT_EQ(float_of_half(0xC000), -2.0f);
  EXPECT_EQ(float_of_half(0x0001), 0x1p-24f);
  EXPECT_EQ(float_of_half(0x83FF), -1023 * 0x1p-24f);
  EXPECT_TRUE(std::isinf(float_of_half(0x7C00)));
  EXPECT_TRUE(std::isnan(float_of_half(0x7E00)));
  EXPECT_TRUE(std::signbit(float_of_half(0x8000)));
}

class GgufFiles : public testing::Test {
 protected:
  std::string put(const GgufBytes& file, const std::string& name = "m.gguf") {
    return scratch_.put(name, file.bytes());
  }
  // What is said of a file, with its name cut off.
  std::string refusal(const std::string& bytes) {
    const std::string path = scratch_.put("m.gguf", bytes);
    const std::string message = message_of([&] {
      const Gguf file = Gguf::open(path);
      gguf_config(file);
      gguf_tensors(file);
    });
    return message.starts_with(path + ": ") ? message.substr(path.size() + 2) : message;
  }
  std::string refusal(const GgufBytes& file) { return refusal(file.bytes()); }

  Scratch scratch_;
};

TEST_F(GgufFiles, KeysBecomeAConfiguration) {
  const JsonObject config = JsonObject::parse(gguf_config(Gguf::open(put(small_gguf()))), "m");
  EXPECT_EQ(config.text("model_type"), "llama");
  EXPECT_EQ(config.integer("vocab_size"), 5);
  EXPECT_EQ(config.integer("head_dim"), 2);
  EXPECT_EQ(config.integer("num_key_value_heads"), 1);
  EXPECT_EQ(config.integer("bos_token_id"), 1);
  EXPECT_TRUE(config.boolean("tie_word_embeddings"));
  EXPECT_FALSE(config.boolean("attention_bias"));
  EXPECT_FLOAT_EQ(config.number("rms_norm_eps"), 1e-5f);
  EXPECT_FALSE(config.has("rope_scaling"));
}

// llama.cpp scales linearly where a file has a factor and no type, also under the factor's older name.
TEST_F(GgufFiles, AFactorOfPositionsWithoutATypeIsLinear) {
  const auto scaling = [&](const std::string& key, float factor) {
    GgufBytes file = small_gguf();
    file.key("llama." + key, factor);
    return JsonObject::parse(gguf_config(Gguf::open(put(file))), "m");
  };
  for (const char* key : {"rope.scaling.factor", "rope.scale_linear"}) {
    const JsonObject found = scaling(key, 4).object("rope_scaling");
    EXPECT_EQ(found.text("rope_type"), "linear") << key;
    EXPECT_EQ(found.number("factor"), 4) << key;
    EXPECT_FALSE(scaling(key, 1).has("rope_scaling")) << key;
    EXPECT_EQ(message_of([&, &key = key] { scaling(key, std::numeric_limits<float>::quiet_NaN()); }),
              scratch_.file("m.gguf") + ": llama." + key + " is not a finite number. Convert the model again.");
  }
}

TEST_F(GgufFiles, OfSeveralInAFolderOneMustBeNamed) {
  const std::string first = put(small_gguf(), "a.gguf");
  EXPECT_EQ(find_model(scratch_.path()), first);
  put(small_gguf(), "b.gguf");
  EXPECT_EQ(message_of([&] { find_model(scratch_.path()); }),
            scratch_.path() + ": 2 GGUF files lie here. Name one of them, e.g. " + first + ".");
  EXPECT_EQ(message_of([] { find_model("a\nb"); }), "a\\x0Ab: a line break in the name of a model. Rename the file.");
}

TEST_F(GgufFiles, RowsOfHeadsComeBackInTheirOrder) {
  GgufBytes file;  // heads of 4: llama.cpp has the rows 0 2 1 3 of a head
  file.key("general.architecture", std::string("llama"));
  file.key("llama.embedding_length", uint32_t{8});
  file.key("llama.attention.head_count", uint32_t{2});
  std::vector<float> values;
  for (float row : {0.f, 2.f, 1.f, 3.f, 4.f, 6.f, 5.f, 7.f})
    for (int i = 0; i < 8; ++i) values.push_back(row);
  file.floats("blk.0.attn_q.weight", {8, 8}, values);
  const auto tensors = gguf_tensors(Gguf::open(put(file)));
  const StoredTensor stored = tensors->stored("model.layers.0.self_attn.q_proj.weight");
  ASSERT_FALSE(stored.view.has_value());
  std::vector<float> rows(64);
  stored.decode(0, 3, rows.data());
  stored.decode(3, 5, rows.data() + 24);
  for (int row = 0; row < 8; ++row) EXPECT_EQ(rows[8 * row], static_cast<float>(row));
}

TEST_F(GgufFiles, PlainFloatsAreUsedWhereTheyLie) {
  const auto tensors = gguf_tensors(Gguf::open(put(small_gguf())));
  const StoredTensor stored = tensors->stored("model.norm.weight");
  ASSERT_TRUE(stored.view.has_value());
  EXPECT_EQ(stored.view->dtype, DType::F32);
  EXPECT_EQ(stored.bits, 32);
  EXPECT_EQ(stored.view->bytes, 16u);
}

TEST_F(GgufFiles, PartsOfASplitModelAreOne) {
  GgufBytes first = small_gguf(), second;
  first.key("split.no", uint16_t{0});
  first.key("split.count", uint16_t{2});
  first.key("split.tensors.count", uint32_t{12});
  second.key("split.no", uint16_t{1});
  second.key("split.count", uint16_t{2});
  second.floats("output.weight", {5, 4}, std::vector<float>(20, 1.f));
  const std::string path = put(first, "m-00001-of-00002.gguf");
  EXPECT_EQ(message_of([&] { Gguf::open(path); }),
            path + ": part 2 of 2, m-00002-of-00002.gguf, is missing beside it. Download that file.");
  const std::string later = put(second, "m-00002-of-00002.gguf");
  for (const std::string& part : {path, later}) {
    const Gguf file = Gguf::open(part);
    EXPECT_EQ(file.tensors().size(), 12u);
    EXPECT_EQ(file.files().size(), 2u);
    EXPECT_TRUE(gguf_tensors(file)->has("lm_head.weight"));
  }
  EXPECT_EQ(find_model(scratch_.path()), path) << "a folder that holds one model stands for it";
  put(first, "m-00002-of-00002.gguf");
  EXPECT_THAT(message_of([&] { Gguf::open(path); }), testing::HasSubstr("is in another part of the model, too"));
}

TEST_F(GgufFiles, WhatIsNotComputedIsRefusedByName) {
  const auto with = [](auto change) {
    GgufBytes file = small_gguf();
    change(file);
    return file;
  };
  EXPECT_THAT(refusal(with([](GgufBytes& f) {
                f.floats("blk.0.attn_q_norm.weight", {2}, {1, 1});
              })),
              testing::StartsWith("tensor blk.0.attn_q_norm.weight does not belong to the architecture llama"));
  EXPECT_THAT(refusal(with([](GgufBytes& f) { f.key("llama.attention.sliding_window", uint32_t{4}); })),
              testing::StartsWith("llama.attention.sliding_window asks for a sliding window"));
  EXPECT_THAT(refusal(with([](GgufBytes& f) { f.key("llama.expert_count", uint32_t{4}); })),
              testing::StartsWith("llama.expert_count asks for a mixture of experts"));
  EXPECT_THAT(refusal(with([](GgufBytes& f) { f.key("llama.rope.scaling.type", std::string("longrope")); })),
              testing::StartsWith("llama.rope.scaling.type asks for `longrope`"));
  GgufBytes other;
  other.key("general.architecture", std::string("gemma3"));
  EXPECT_THAT(refusal(other),
              testing::StartsWith("general.architecture gemma3 is not implemented. Use a model of one"));
}

TEST_F(GgufFiles, ATypeThatIsNotReadIsRefusedWhenItIsUsed) {
  GgufBytes file = small_gguf();
  file.tensor("output.weight", {1, 256}, 18, std::string(98, '\1'));  // IQ3_XXS
  const auto tensors = gguf_tensors(Gguf::open(put(file)));
  EXPECT_THAT(message_of([&] { tensors->stored("lm_head.weight"); }),
              testing::HasSubstr("tensor output.weight has the element type IQ3_XXS. Types that are read: F32, F16"));
}

TEST_F(GgufFiles, EveryRuleOfTheHeaderHasItsLine) {
  const auto part = [&](auto change) {
    GgufBytes file;
    change(file);
    return refusal(file);
  };
  using testing::StartsWith;
  EXPECT_THAT(refusal("GG"), StartsWith("the file ends after 2 bytes, within the four letters GGUF."));
  EXPECT_THAT(refusal("GGML" + std::string(60, '\0')), StartsWith("the file does not begin with GGUF."));
  EXPECT_THAT(refusal("GGUF" + GgufBytes::little(1, 4) + std::string(16, '\0')),
              StartsWith("GGUF version 1 is not read"));
  EXPECT_THAT(refusal("GGUF" + GgufBytes::little(0x03000000, 4) + std::string(16, '\0')),
              StartsWith("this GGUF file was written for big-endian machines"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\n"), StartsWith("this is a Git LFS pointer"));
  EXPECT_THAT(refusal("GGUF" + GgufBytes::little(3, 4) + GgufBytes::little(1ull << 40, 8) + std::string(16, '\0')),
              StartsWith("the header announces 1099511627776 tensors, more than fit into the 32 bytes of the file"));
  EXPECT_THAT(part([](GgufBytes& f) { f.raw_key("a", GgufBytes::little(13, 4) + "xxxxxxxx"); }),
              StartsWith("a has the unknown type 13"));
  EXPECT_THAT(
      part([](GgufBytes& f) { f.raw_key("a", GgufBytes::little(9, 4) + GgufBytes::little(9, 4) + "xxxxxxxx"); }),
      StartsWith("a is a list of the type 9, which is not read"));
  EXPECT_THAT(part([](GgufBytes& f) {
                f.raw_key("a", GgufBytes::little(9, 4) + GgufBytes::little(4, 4) + GgufBytes::little(~0ull >> 2, 8));
              }),
              StartsWith("a is a list of 4611686018427387903 values, more than the 15 bytes left of the file hold"));
  EXPECT_THAT(part([](GgufBytes& f) { f.raw_key("a", GgufBytes::little(7, 4) + "\2"); }),
              StartsWith("a is 2, neither true nor false"));
  EXPECT_THAT(part([](GgufBytes& f) {
                f.key("a", uint32_t{1});
                f.key("a", uint32_t{1});
              }),
              StartsWith("the key a is there twice"));
  EXPECT_THAT(part([](GgufBytes& f) {
                f.floats("t", {1}, {1});
                f.floats("t", {1}, {1});
              }),
              StartsWith("the tensor t is there twice"));
  EXPECT_THAT(part([](GgufBytes& f) { f.tensor("t", {1, 1, 1, 1, 1}, 0, "aaaa"); }), StartsWith("tensor t has 5 axes"));
  EXPECT_THAT(part([](GgufBytes& f) { f.tensor("t", {2, 0}, 0, ""); }), StartsWith("tensor t: a size of 0"));
  EXPECT_THAT(part([](GgufBytes& f) {
                f.tensor("t", {1ull << 40, 1ull << 40}, 0, "");
              }),
              StartsWith("tensor t: a size of 1099511627776 in its shape is 0 or too large"));
  EXPECT_THAT(part([](GgufBytes& f) { f.tensor("t", {1}, 77, "a"); }),
              StartsWith("tensor t has the unknown element type 77"));
  EXPECT_THAT(part([](GgufBytes& f) { f.tensor("t", {48}, 2, "a"); }),
              StartsWith("tensor t: rows of 48 weights are not whole blocks of 32 (Q4_0)"));
  EXPECT_THAT(part([](GgufBytes& f) {
                f.key("general.alignment", uint32_t{48});
                f.floats("t", {1}, {1});
              }),
              StartsWith("general.alignment is not a power of two"));
  EXPECT_THAT(part([](GgufBytes& f) { f.tensor("t", {64}, 0, "too short"); }),
              testing::HasSubstr("within tensor t, which takes 256 bytes"));
}

TEST_F(GgufFiles, KeysOfAnotherTypeAreNamed) {
  GgufBytes file;
  file.key("general.architecture", std::string("llama"));
  file.key("llama.block_count", std::string("many"));
  const Gguf gguf = Gguf::open(put(file));
  EXPECT_THAT(message_of([&] { gguf.integer("llama.block_count"); }),
              testing::HasSubstr("llama.block_count is string, not a whole number."));
  EXPECT_THAT(message_of([&] { gguf.text("llama.context_length"); }),
              testing::HasSubstr("the key llama.context_length is missing."));
}

TEST_F(GgufFiles, AFileThatIsNoModelIsCalledByWhatItIs) {
  const auto said = [&](const std::string& name, const std::string& bytes) {
    const std::string path = scratch_.put(name, bytes);
    return message_of([&] { find_model(path); }).substr(path.size() + 2);
  };
  EXPECT_EQ(said("model.safetensors", "x"),
            "this is one file of a model folder. Name the folder: " + scratch_.path() + ".");
  EXPECT_EQ(said("config.json", "{}"), "this is one file of a model folder. Name the folder: " + scratch_.path() + ".");
  EXPECT_EQ(said("pytorch_model.bin", "PK\3\4"),
            "this is a PyTorch checkpoint, which is not read. Convert it with save_pretrained of transformers.");
  EXPECT_THAT(said("notes.txt", "hello"), testing::StartsWith("this file is no model. What is needed is a folder"));
  EXPECT_THAT(said("model.bin", "version https://git-lfs.github.com/spec/v1"),
              testing::StartsWith("this is a Git LFS"));
  EXPECT_EQ(find_model(scratch_.put("cut.gguf", "GG")), scratch_.file("cut.gguf")) << "its reader says what is wrong";
}

}  // namespace
}  // namespace core
