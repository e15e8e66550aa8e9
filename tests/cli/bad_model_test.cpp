// Models that are incomplete, damaged, or not for us.
#include <fmt/format.h>
#include <gmock/gmock.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>

#include "core/io/files.h"
#include "tests/cli/bad_input.h"

namespace cli {
namespace {

namespace fs = std::filesystem;

class BadModel : public BadInput {
 protected:
  // The header of ./model/model.safetensors, changed; the data stay where they are.
  void change_header(const std::function<void(nlohmann::ordered_json&)>& change) {
    const std::string file = program_.file("model/model.safetensors"), content = core::slurp(file);
    uint64_t length = 0;
    std::memcpy(&length, content.data(), sizeof length);
    auto header = nlohmann::ordered_json::parse(content.substr(sizeof length, length));
    change(header);
    core::write_atomically(file, core::safetensors_bytes(header.dump(), content.substr(sizeof length + length)));
  }
};

TEST_F(BadModel, MissingModelDirectory) {
  refused_after("tiny-qwen3", "tiny-qwen4",
                fmt::format("tiny-qwen4: no such model or directory. Did you mean `tiny-qwen3`? Known models: {}. Set "
                            "REFRAIN_DATA to a folder that holds more.",
                            core::joined(embedded_models())));
}

TEST_F(BadModel, MissingConfigJson) {
  program_.own_model();
  fs::remove(program_.file("model/config.json"));
  refused("model: no config.json here. Is it a Hugging Face model directory?");
}

TEST_F(BadModel, MissingSafetensors) {
  program_.own_model();
  fs::remove(program_.file("model/model.safetensors"));
  refused(
      "model: no model.safetensors or model.safetensors.index.json here. Other formats are converted with "
      "save_pretrained of "
      "transformers.");
}

TEST_F(BadModel, MissingTokenizer) {
  program_.own_model();
  fs::remove(program_.file("model/tokenizer.json"));
  refused("model: there is no tokenizer.json and no tokenizer.model. Copy the model's tokenizer there.");
}

TEST_F(BadModel, TensorErasedFromTheHeader) {
  program_.own_model();
  change_header([](auto& header) { header.erase("model.layers.2.self_attn.q_norm.weight"); });
  refused(
      "model/model.safetensors: 64 bytes of data before tensor `model.layers.2.self_attn.q_proj.weight` belong to no "
      "tensor. "
      "Download or write the file again.");
}

TEST_F(BadModel, MissingTensor) {
  program_.own_model();
  change_header([](auto& header) {
    header["unrelated"] = header["model.layers.2.self_attn.q_norm.weight"];
    header.erase("model.layers.2.self_attn.q_norm.weight");
  });
  refused(
      "model: there is no tensor `model.layers.2.self_attn.q_norm.weight`. Did you mean "
      "`model.layers.0.self_attn.q_norm.weight`?");
}

TEST_F(BadModel, TensorOfAnotherShape) {
  program_.own_model();
  program_.edit("\"intermediate_size\": 256", "\"intermediate_size\": 128", "model/config.json");
  refused(
      "model/model.safetensors: model.layers.0.mlp.gate_proj.weight is [256, 128], config.json asks for [128, 128]. "
      "Use the "
      "config.json that belongs to this file.");
}

TEST_F(BadModel, MissingShard) {
  program_.own_model();
  fs::rename(program_.file("model/model.safetensors"), program_.file("model/a.safetensors"));
  program_.put(
      "model/model.safetensors.index.json",
      R"({"weight_map": {"model.norm.weight": "a.safetensors", "model.embed_tokens.weight": "b.safetensors"}})");
  refused("model/model.safetensors.index.json: the shard b.safetensors is missing beside it. Download that file.");
}

TEST_F(BadModel, TruncatedFile) {
  program_.own_model();
  size_t data = 0;
  std::string last;
  change_header([&](auto& header) {
    for (const auto& [name, tensor] : header.items()) {
      if (name == "__metadata__" || tensor["data_offsets"][1] <= data) continue;
      data = tensor["data_offsets"][1], last = name;
    }
  });
  const std::string file = program_.file("model/model.safetensors");
  fs::resize_file(file, fs::file_size(file) - 10);
  refused(fmt::format(
      "model/model.safetensors: tensor `{}`: data_offsets end at {}, beyond the {} bytes of data in the file. "
      "Download or write the file again.",
      last, data, data - 10));
}

TEST_F(BadModel, UnknownModelType) {
  program_.own_model();
  program_.edit("\"model_type\": \"qwen3\"", "\"model_type\": \"gpt2\"", "model/config.json");
  refused(
      "model/config.json: model_type gpt2 is not implemented. Use a model of one of: llama, qwen2, qwen2_moe, qwen3, "
      "qwen3_moe, deepseek, deepseek_v2.");
}

TEST_F(BadModel, UnknownActivation) {
  program_.own_model();
  program_.edit("\"silu\"", "\"gelu\"", "model/config.json");
  refused("model/config.json: hidden_act is \"gelu\". Only \"silu\" is implemented.");
}

TEST_F(BadModel, NonFiniteWeightFoundWhileRunning) {
  program_.own_model();
  size_t start = 0;
  change_header([&](auto& header) { start = header["model.layers.3.mlp.down_proj.weight"]["data_offsets"][0]; });
  std::string content = core::slurp(program_.file("model/model.safetensors"));
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof length);
  content.replace(sizeof length + length + start + 2, 2, "\xC0\x7F");  // bfloat16 nan in the second element
  program_.put("model/model.safetensors", content);
  const Finished finished = program_.run({"c.yaml"});
  EXPECT_EQ(finished.code, 2);
  EXPECT_EQ(finished.err,
            "model.layers.3.mlp.down_proj.weight: value at [0, 1] is not finite. Replace model/model.safetensors: it "
            "is damaged, or "
            "was saved from a model that had diverged.\n");
  for (const std::string& path : program_.everything()) {
    EXPECT_FALSE(path.starts_with("runs/n/")) << path << " was left behind";
  }
}

}  // namespace
}  // namespace cli
