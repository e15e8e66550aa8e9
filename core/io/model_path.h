// What `model.path` may name: a folder in Hugging Face format or a GGUF file, by its path or by its name under
// `<root>`, `<root>/models` of the data roots or among the models that tools/get_model has fetched. A folder without a
// config.json that holds one GGUF model stands for it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/io/hf_config.h"
#include "core/io/tensor_source.h"

namespace core {

// The folder or the GGUF file. Throws UserError when there is none, or when the path names something else: what it is,
// and what is needed; of a model that can be fetched, by which command.
std::string find_model(const std::string& name_or_path);

// Names of models under the roots, sorted.
std::vector<std::string> list_models();

// Of what find_model has found:
JsonObject read_model_config(const std::string& model);                      // config.json, or what stands in its place
std::shared_ptr<const TensorSource> open_tensors(const std::string& model);  // checked; reads no tensor

}  // namespace core
