// The dense families; each file reads its config keys and builds its blocks, from top to bottom.
#pragma once

#include <memory>

#include "core/io/hf_config.h"
#include "core/model.h"

namespace models {

std::shared_ptr<core::Model> build_llama(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen2(const core::JsonObject& config);
std::shared_ptr<core::Model> build_qwen3(const core::JsonObject& config);

}  // namespace models
