#include "core/io/gguf_architecture.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <vector>

#include "core/error.h"
#include "core/io/json_text.h"

namespace core {
namespace {

constexpr std::array kArchitectures{
    GgufArchitecture{"llama", "llama", 0, true, nullptr},
    GgufArchitecture{"qwen2", "qwen2", 0, false, nullptr},
    GgufArchitecture{"qwen3", "qwen3", head_norms, false, nullptr},
    GgufArchitecture{"qwen2moe", "qwen2_moe", mixture | shared_experts, false, "num_experts"},
    GgufArchitecture{"qwen3moe", "qwen3_moe", mixture | head_norms, false, "num_experts"},
    GgufArchitecture{"deepseek", "deepseek", mixture | shared_experts, true, "n_routed_experts"},
    GgufArchitecture{"deepseek2", "deepseek_v2", mixture | shared_experts | latent, false, "n_routed_experts"},
};

}  // namespace

const GgufArchitecture& architecture_of(const Gguf& file) {
  const std::string name = file.text("general.architecture");
  std::vector<std::string> known;
  for (const GgufArchitecture& a : kArchitectures) {
    if (name == a.name) return a;
    known.emplace_back(a.name);
  }
  fail("{}: general.architecture {} is not implemented. Use a model of one of: {}.", file.where(), printable(name),
       fmt::join(known, ", "));
}

const GgufArchitecture* find_architecture(std::string_view model_type) {
  const auto found = std::find_if(kArchitectures.begin(), kArchitectures.end(),
                                  [&](const GgufArchitecture& a) { return model_type == a.model_type; });
  return found == kArchitectures.end() ? nullptr : found;
}

int64_t GgufKeys::count(const std::string& key) const {
  const std::vector<int64_t>& values = file_.integers(path(key));
  const bool equal = !values.empty() && std::equal(values.begin() + 1, values.end(), values.begin());
  require(equal, "{}: {} differs between blocks, which is not implemented. Use another model.", file_.where(),
          path(key));
  require(values[0] >= 1 && values[0] < (int64_t{1} << 31),
          "{}: {} is {}, not a number from 1 to 2^31 - 1. Convert "
          "the model again.",
          file_.where(), path(key), values[0]);
  return values[0];
}

void GgufKeys::refuse(const std::string& key, const std::string& what) const {
  fail("{}: {} asks for {}, which is not implemented. Use another model.", file_.where(), path(key), what);
}

const GgufTensor& needed_tensor(const Gguf& file, const std::string& name, size_t axes) {
  const GgufTensor* tensor = file.find(name);
  require(tensor != nullptr, "{}: the tensor {} is missing. Convert the model again.", file.where(), name);
  require(tensor->shape.size() == axes, "{}: {} has {} axes, not {}. Convert the model again.", file.where(), name,
          tensor->shape.size(), axes);
  return *tensor;
}

}  // namespace core
