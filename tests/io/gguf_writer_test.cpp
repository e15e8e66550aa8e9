// GGUF files that are written are read back as they were meant; nothing is left of what could not be finished.
#include "core/io/gguf_writer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>

#include "core/io/gguf.h"
#include "core/io/gguf_names.h"
#include "tests/io/support.h"

namespace core {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<float> numbers(int64_t count, float first) {
  std::vector<float> values(static_cast<size_t>(count));
  std::iota(values.begin(), values.end(), first);
  return values;
}

const GgmlType& f32() { return *find_ggml_type("F32"); }

bool holds(const GgufTensor& tensor, const std::vector<float>& values) {
  return tensor.bytes == 4 * values.size() && std::memcmp(tensor.data, values.data(), tensor.bytes) == 0;
}

TEST(GgufWriter, IsReadBack) {
  const Scratch scratch;
  GgufWriter writer(scratch.path());
  const std::vector<float> a = numbers(6, 1), b = numbers(5, -3);
  writer.add("a", f32(), {2, 3});
  writer.append(std::as_bytes(std::span(a).first(3)));
  writer.append(std::as_bytes(std::span(a).last(3)));
  writer.add("b", f32(), {5});
  writer.append(std::as_bytes(std::span(b)));
  const std::string path = scratch.file("m.gguf");
  EXPECT_THAT(writer.write(path,
                           {{"general.architecture", "llama"},
                            {"count", uint32_t{7}},
                            {"signed", int32_t{-7}},
                            {"number", 0.5f},
                            {"yes", true},
                            {"texts", std::vector<std::string>{"x", "", "ü"}},
                            {"integers", std::vector<int32_t>{1, -2}},
                            {"numbers", std::vector<float>{1.5f}}},
                           1 << 20),
              ElementsAre(path));
  const Gguf file = Gguf::open(path);
  EXPECT_EQ(file.text("general.architecture"), "llama");
  EXPECT_EQ(file.integer("count"), 7);
  EXPECT_EQ(file.integer("signed"), -7);
  EXPECT_EQ(file.number("number"), 0.5);
  EXPECT_TRUE(file.boolean("yes", false));
  EXPECT_THAT(file.texts("texts"), ElementsAre("x", "", "ü"));
  EXPECT_THAT(file.integers("integers"), ElementsAre(1, -2));
  EXPECT_THAT(file.numbers("numbers"), ElementsAre(1.5));
  EXPECT_THAT(file.find("a")->shape, ElementsAre(2, 3));
  EXPECT_TRUE(holds(*file.find("a"), a));
  EXPECT_TRUE(holds(*file.find("b"), b));
  EXPECT_THAT(scratch.listing(), ElementsAre("m.gguf"));
}

TEST(GgufWriter, SplitsWhatIsLarge) {
  const Scratch scratch;
  GgufWriter writer(scratch.path());
  for (int i = 0; i < 3; ++i) {
    writer.add("t" + std::to_string(i), f32(), {10});
    const std::vector<float> values = numbers(10, static_cast<float>(i));
    writer.append(std::as_bytes(std::span(values)));
  }
  EXPECT_EQ(writer.bytes(), 120);
  const std::vector<std::string> files = writer.write(scratch.file("m.gguf"), {{"general.architecture", "llama"}}, 80);
  EXPECT_THAT(scratch.listing(), ElementsAre("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"));
  const Gguf model = Gguf::open(files[0]);
  EXPECT_EQ(model.tensors().size(), 3u);
  EXPECT_TRUE(holds(*model.find("t2"), numbers(10, 2)));
  EXPECT_EQ(Gguf::open(files[1]).text("general.architecture"), "llama");
}

TEST(GgufWriter, LeavesNothingWhereItCannotWrite) {
  const Scratch scratch;
  GgufWriter writer(scratch.path());
  writer.add("t", f32(), {1});
  const std::vector<float> values = numbers(1, 0);
  writer.append(std::as_bytes(std::span(values)));
  EXPECT_THAT(message_of([&] { writer.write(scratch.file("nowhere/m.gguf"), {}, 1 << 20); }),
              HasSubstr("cannot be written"));
  EXPECT_TRUE(scratch.listing().empty());
}

TEST(GgufNames, AreThoseOfTheConverter) {
  const auto tensor_of = [](const char* model_type, const std::string& name) {
    const auto place = gguf_place(*find_architecture(model_type), name);
    return place ? place->tensor + (place->expert >= 0 ? " " + std::to_string(place->expert) : "") +
                       (place->is_interleaved ? " interleaved" : "")
                 : "none";
  };
  EXPECT_EQ(tensor_of("llama", "model.embed_tokens.weight"), "token_embd.weight");
  EXPECT_EQ(tensor_of("llama", "model.layers.12.self_attn.q_proj.weight"), "blk.12.attn_q.weight interleaved");
  EXPECT_EQ(tensor_of("qwen2", "model.layers.0.self_attn.k_proj.bias"), "blk.0.attn_k.bias");
  EXPECT_EQ(tensor_of("qwen2", "model.layers.0.self_attn.q_norm.weight"), "none") << "qwen2 has no norms of heads";
  EXPECT_EQ(tensor_of("qwen3_moe", "model.layers.1.mlp.experts.17.down_proj.weight"), "blk.1.ffn_down_exps.weight 17");
  EXPECT_EQ(tensor_of("qwen2_moe", "model.layers.1.mlp.shared_expert.up_proj.weight"), "blk.1.ffn_up_shexp.weight");
  EXPECT_EQ(tensor_of("qwen2_moe", "model.layers.1.mlp.shared_expert_gate.weight"), "blk.1.ffn_gate_inp_shexp.weight");
  EXPECT_EQ(tensor_of("deepseek", "model.layers.1.mlp.shared_experts.up_proj.weight"), "blk.1.ffn_up_shexp.weight");
  EXPECT_EQ(tensor_of("deepseek_v2", "model.layers.1.self_attn.kv_b_proj.weight"), "blk.1.attn_kv_b.weight");
  EXPECT_EQ(tensor_of("qwen3", "model.layers.x.mlp.up_proj.weight"), "none");
  EXPECT_EQ(find_architecture("mamba"), nullptr);
}

}  // namespace
}  // namespace core
