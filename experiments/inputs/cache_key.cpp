#include "experiments/inputs/cache_key.h"

#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <torch/version.h>

#include "experiments/inputs/model_files.h"

namespace experiments {

core::CacheKey cache_key(const Spec& spec, const Dependencies& dependencies) {
  std::string text;
  for (const auto& [name, hash] : dependencies.inputs) text += fmt::format("{}: {}\n", name, hash);
  text += fmt::format("parent: {}\ndtype: {}\ndevice: {}\nlibtorch: {}\nthreads: {}\n", dependencies.parent,
                      c10::toString(dtype_of(spec)), device_of(spec).str(), TORCH_VERSION, at::get_num_threads());
  for (const core::Section* section : dependencies.keys) {
    core::Node node = core::to_node(const_cast<core::Section&>(*section), /*identity_only=*/true);  // only reads it
    text += "keys:\n" + core::to_yaml(node);
  }
  return {dependencies.stage, dependencies.version, std::move(text)};
}

}  // namespace experiments
