#include "models/registry.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/error.h"
#include "models/deepseek_moe/families.h"
#include "models/qwen/families.h"

namespace models {

namespace {

struct Family {
  const char* model_type;
  std::shared_ptr<core::Model> (*build)(const core::JsonObject& config);
};

constexpr std::array kFamilies{
    Family{"llama", build_llama},
    Family{"qwen2", build_qwen2},
    Family{"qwen2_moe", build_qwen2_moe},
    Family{"qwen3", build_qwen3},
    Family{"qwen3_moe", build_qwen3_moe},
    Family{"deepseek", build_deepseek},
    Family{"deepseek_v2", build_deepseek_v2},
};

}  // namespace

std::shared_ptr<core::Model> build(const core::JsonObject& config) {
  const std::string type = config.text("model_type");
  core::require(
      !config.has("quantization_config"),
      "{}: quantization_config says that this checkpoint is already quantized. Use the full-precision checkpoint.",
      config.where());
  const auto family =
      std::find_if(kFamilies.begin(), kFamilies.end(), [&](const Family& f) { return type == f.model_type; });
  core::require(family != kFamilies.end(), "{}: model_type {} is not implemented. Use a model of one of: {}.",
                config.where(), type, fmt::join(families(), ", "));
  return family->build(config);
}

std::vector<std::string> families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

}  // namespace models
