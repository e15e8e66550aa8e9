// That codes which are used several times lie in memory once, as the process itself sees it: not by pointers, but by
// resident pages.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "core/machine.h"
#include "quant/grids/draws.h"
#include "tests/export/support.h"

namespace exports {
namespace {

constexpr int64_t kWidth = 1024, kFfn = 8192;

constexpr const char* kConfig = R"({"model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 8192,
  "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 64,
  "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
  "tie_word_embeddings": true, "attention_bias": false})";

// A model of one block whose weights are drawn.
void write_model(const std::string& directory) {
  core::create_directories(directory);
  core::write_atomically(directory + "/config.json", kConfig);
  const std::string block = "model.layers.0.";
  std::vector<std::pair<std::string, std::vector<int64_t>>> shapes{
      {"model.embed_tokens.weight", {64, kWidth}},      {"model.norm.weight", {kWidth}},
      {block + "input_layernorm.weight", {kWidth}},     {block + "post_attention_layernorm.weight", {kWidth}},
      {block + "self_attn.q_norm.weight", {128}},       {block + "self_attn.k_norm.weight", {128}},
      {block + "mlp.gate_proj.weight", {kFfn, kWidth}}, {block + "mlp.up_proj.weight", {kFfn, kWidth}},
      {block + "mlp.down_proj.weight", {kWidth, kFfn}}};
  for (const char* name : {"q", "k", "v", "o"})
    shapes.emplace_back(block + "self_attn." + name + "_proj.weight", std::vector<int64_t>{kWidth, kWidth});
  std::vector<at::Tensor> held;
  std::vector<core::TensorToWrite> tensors;
  for (const auto& [name, shape] : shapes) {
    const int64_t columns = shape.back(), rows = shape.size() == 2 ? shape.front() : 1;
    held.push_back(quant::normal_draw({name, 1}, "weight", 0, rows, columns).mul(0.02).reshape(shape).contiguous());
    tensors.push_back({name, core::DType::F32, shape, held.back().const_data_ptr()});
  }
  core::write_safetensors(directory + "/model.safetensors", tensors);
}

int64_t resident_bytes() {
  core::reset_peak_memory();  // what is free goes back
  int64_t pages = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> pages >> resident;
  return resident * ::sysconf(_SC_PAGESIZE);
}

// What the process keeps of a model that has run once.
int64_t growth(const std::string& directory) {
  const int64_t before = resident_bytes();
  Opened model = opened(directory);
  EXPECT_TRUE(model.logits().isfinite().all().item<bool>());
  return resident_bytes() - before;
}

TEST(ResidentMemory, ADoubledBlockIsThereOnce) {
#ifdef __APPLE__
  GTEST_SKIP() << "resident pages are read from /proc";
#endif
  core::return_freed_tensors();
  const core::Scratch scratch;
  write_model(scratch.file("model"));
  const auto write = [&](const std::string& name, const std::string& replication, replication::OwnParameters own) {
    Opened model = opened(scratch.file("model"));
    save(model, "{method: rtn, weight: {bits: 8, group_size: 64}}", scratch.file(name), {}, {}, replication, own);
  };
  write("plain", "{}", {});
  write("shared", "{strategy: depth, depth: {gate_init: 0.5}}", {});
  write("own", "{strategy: depth, depth: {gate_init: 0.5}}", {.parameters = true, .norms = true});
  const int64_t codes = 3 * kWidth * kFfn + 4 * kWidth * kWidth;  // a byte each
  const int64_t parameters = codes / 64 * 5;                      // a float32 scale and a zero point
  growth(scratch.file("plain"));                                  // what is made at the first call
  const int64_t plain = growth(scratch.file("plain")), shared = growth(scratch.file("shared")),
                own = growth(scratch.file("own"));
  EXPECT_GE(plain, codes) << "the measurement sees a block";
  EXPECT_LE(plain, codes + 4 * parameters);
  EXPECT_LE(shared - plain, codes / 10);
  EXPECT_LE(own - plain, codes / 10 + 2 * parameters);
  // And it would see a second one.
  const Opened first = opened(scratch.file("shared"));
  EXPECT_GE(growth(scratch.file("shared")), codes);
}

}  // namespace
}  // namespace exports
