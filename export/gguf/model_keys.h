// config.json as keys of a GGUF file: the other way of core/io/gguf_config.cpp.
#pragma once

#include <string>
#include <vector>

#include "core/io/gguf_architecture.h"
#include "core/io/gguf_writer.h"
#include "core/io/hf_config.h"
#include "core/model.h"

namespace exports {

// The blocks of a model in the order in which the file has them.
using Blocks = std::vector<int64_t>;

// Why llama.cpp would not compute what we compute for this configuration, a line each: what its architecture does not
// have or does otherwise. model: its skeleton.
std::vector<std::string> not_in_llama_cpp(const core::GgufArchitecture& architecture, const core::JsonObject& config,
                                          core::Model& model, const Blocks& blocks);

// The keys of the architecture.
core::GgufKeyValues model_keys(const core::GgufArchitecture& architecture, const core::JsonObject& config,
                               core::Model& model, const Blocks& blocks);

// Llama 3's stretched frequencies: a factor per pair, which llama.cpp reads as a tensor. Empty: there are none.
std::vector<float> rope_factors(const core::JsonObject& config, const core::Shape& shape);

}  // namespace exports
