// The model families by the `model_type` of their config.json. A new family is one file and one line in registry.cpp.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/io/hf_config.h"
#include "core/model.h"

namespace models {

// The skeleton of the model in a Hugging Face directory: reads config.json only, checks every key, holds no tensor yet.
// Errors: unknown model_type, keys that are missing, contradictory or not implemented, each by name and value.
std::shared_ptr<core::Model> build(const core::JsonObject& config);

std::vector<std::string> families();  // the known model_type values

}  // namespace models
