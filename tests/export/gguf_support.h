// What the tests of GGUF files that we write share.
#pragma once

#include <ATen/ATen.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "core/io/model_path.h"
#include "export/exporter.h"
#include "tests/export/support.h"

namespace exports {

inline const std::string kDense = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-qwen3";
inline const std::string kMixture = std::string(REFRAIN_SOURCE_DIR) + "/data/tiny-deepseek-moe";

// A folder with what a tokenizer needs: the golden folders have none.
inline std::string with_tokenizer(const core::Scratch& scratch, const std::string& folder) {
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() != ".gguf") std::filesystem::copy(entry.path(), scratch.file(entry.path().filename()));
  }
  const nlohmann::json stages = {{{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}};
  const nlohmann::json model = {
      {"type", "BPE"}, {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}}, {"merges", nlohmann::json::array({"a b"})}};
  scratch.put("tokenizer.json", nlohmann::json{{"added_tokens", nlohmann::json::array()},
                                               {"normalizer", nullptr},
                                               {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", stages}}},
                                               {"post_processor", nullptr},
                                               {"decoder", stages[0]},
                                               {"model", model}}
                                    .dump());
  return scratch.path();
}

inline core::Polymorphic<Exporter> gguf(const std::string& options = "{}") {
  core::Polymorphic<Exporter> exporter = make_exporters().at("gguf");
  core::bind(core::parse_yaml(options, "a.yaml"), *exporter, "exports.gguf");
  return exporter;
}

inline Written write(const std::string& model, const std::string& file, const std::string& options = "{}") {
  return exported("gguf", *gguf(options), open_to_export(model), file);
}

inline at::Tensor logits_of(const std::string& path) {
  const at::NoGradGuard no_gradient;
  const auto model = models::build(core::read_model_config(path));
  const core::Weights weights(core::open_tensors(path), at::kFloat, at::kCPU);
  const auto source = open_source(*model, path, weights);
  load_embedding_and_head(*model, path, weights);
  for (int64_t i = 0; i < model->shape().layers; ++i) source->load(*model, i);
  return model->forward(at::arange(14, at::kLong).mul(5).remainder(model->shape().vocabulary).reshape({2, 7}));
}

}  // namespace exports
