// Experts that lie in one tensor per kind, [E, 2F, D] and [E, D, F], are the same model as experts with tensors of
// their own.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "core/io/safetensors.h"
#include "tests/io/support.h"
#include "tests/models/support.h"
#include "tests/support/logged.h"

namespace {

namespace fs = std::filesystem;

using Bytes = std::vector<std::byte>;

struct Tensor {
  core::DType dtype;
  std::vector<int64_t> shape;
  Bytes bytes;
};
using Tensors = std::map<std::string, Tensor>;

Tensors read(const std::string& directory) {
  Tensors all;
  const core::Checkpoint file = core::Checkpoint::open(directory);
  for (const std::string& name : file.names()) {
    const core::TensorView& view = file.at(name);
    all[name] = {view.dtype, view.shape, Bytes(view.data, view.data + view.bytes)};
  }
  return all;
}

void append(Bytes& to, const Bytes& from) { to.insert(to.end(), from.begin(), from.end()); }

// The same tensors with those of experts laid behind one another; experts are taken while there are some.
Tensors fused(Tensors all) {
  for (int64_t layer = 0; layer < 8; ++layer) {
    const std::string prefix = "model.layers." + std::to_string(layer) + ".mlp.experts.";
    Tensor gate_up, down;
    int64_t e = 0;
    for (;; ++e) {
      const std::string expert = prefix + std::to_string(e);
      if (!all.contains(expert + ".gate_proj.weight")) break;
      for (const char* name : {".gate_proj.weight", ".up_proj.weight"})
        append(gate_up.bytes, all.at(expert + name).bytes);
      append(down.bytes, all.at(expert + ".down_proj.weight").bytes);
      const Tensor &gate = all.at(expert + ".gate_proj.weight"), &last = all.at(expert + ".down_proj.weight");
      gate_up.dtype = down.dtype = gate.dtype;
      gate_up.shape = {e + 1, 2 * gate.shape[0], gate.shape[1]};
      down.shape = {e + 1, last.shape[0], last.shape[1]};
      for (const char* name : {".gate_proj.weight", ".up_proj.weight", ".down_proj.weight"}) all.erase(expert + name);
    }
    if (e == 0) continue;
    all[prefix + "gate_up_proj"] = gate_up;
    all[prefix + "down_proj"] = down;
  }
  return all;
}

void write(const std::string& directory, const std::string& golden, const Tensors& all) {
  fs::create_directories(directory);
  fs::copy_file(golden_directory(golden) + "/config.json", directory + "/config.json");
  std::vector<core::TensorToWrite> tensors;
  for (const auto& [name, tensor] : all) tensors.push_back({name, tensor.dtype, tensor.shape, tensor.bytes.data()});
  core::write_safetensors(directory + "/model.safetensors", tensors);
}

TEST(FusedExperts, GiveTheLogitsOfExpertsWithTensorsOfTheirOwn) {
  const core::Scratch scratch;
  size_t mixtures = 0;
  for (const std::string& golden : golden_names()) {
    const Tensors own = read(golden_directory(golden)), together = fused(own);
    if (together.size() == own.size()) continue;  // without experts
    ++mixtures;
    write(scratch.file(golden), golden, together);
    const at::Tensor ids = expected_of(golden, "ids");
    const Logged log;
    EXPECT_TRUE(
        at::equal(load_model(scratch.file(golden))->forward(ids), load_model(golden_directory(golden))->forward(ids)))
        << golden;
    EXPECT_THAT(log.text(), testing::Not(testing::HasSubstr("read by nothing"))) << golden;
  }
  EXPECT_GT(mixtures, 0u);
}

TEST(FusedExperts, OfAnotherShapeAreRefusedByName) {
  const core::Scratch scratch;
  Tensors all = fused(read(golden_directory("qwen3_moe")));
  Tensor& down = all.at("model.layers.0.mlp.experts.down_proj");
  std::swap(down.shape[1], down.shape[2]);
  write(scratch.file("turned"), "qwen3_moe", all);
  EXPECT_EQ(message_of([&] { load_model(scratch.file("turned")); }),
            scratch.file("turned") +
                "/model.safetensors: model.layers.0.mlp.experts.0.down_proj.weight is [16, 24], config.json asks for "
                "[24, 16]. Use the config.json that belongs to this file.");
  std::swap(down.shape[1], down.shape[2]);
  down.shape = {4, 48, 16};  // as many bytes, half as many experts
  write(scratch.file("few"), "qwen3_moe", all);
  EXPECT_EQ(message_of([&] { load_model(scratch.file("few")); }),
            scratch.file("few") +
                "/model.safetensors: model.layers.0.mlp.experts.0.down_proj.weight is [48, 16], config.json asks for "
                "[24, 16]. Use the config.json that belongs to this file.");
}

}  // namespace
