// A block whose norms are all 1: what the benchmarks put around linears of their own.
#pragma once

#include <ATen/ATen.h>
#include <unistd.h>

#include <filesystem>

#include "core/io/safetensors.h"
#include "core/model.h"

namespace bench {

// width: D; head_width: C.
inline void load_norms(core::Block& block, int64_t width, int64_t head_width) {
  std::vector<core::TensorToWrite> tensors;
  std::vector<at::Tensor> held;
  std::vector<core::RmsNorm*> norms;
  for (const auto& module : block.modules(/*include_self=*/false)) {
    auto* norm = dynamic_cast<core::RmsNorm*>(module.get());
    if (norm == nullptr) continue;
    norms.push_back(norm);
    held.push_back(at::ones({norm->path().ends_with("layernorm") ? width : head_width}));
    tensors.push_back(
        {norm->path() + ".weight", core::DType::F32, held.back().sizes().vec(), held.back().const_data_ptr()});
  }
  const std::string name = "refrain_bench_norms_" + std::to_string(::getpid()) + ".safetensors";
  const std::string file = (std::filesystem::temp_directory_path() / name).string();
  core::write_safetensors(file, tensors);
  const core::Weights weights(std::make_shared<core::Checkpoint>(core::Checkpoint::open(file)), at::kFloat, at::kCPU);
  for (core::RmsNorm* norm : norms) norm->load(weights);
  std::filesystem::remove(file);
}

}  // namespace bench
