#include "experiments/inputs/model_files.h"

#include <ATen/Context.h>

#include "core/error.h"
#include "core/io/model_path.h"
#include "core/machine.h"
#include "core/text/load_tokenizer.h"

namespace experiments {

ModelFiles open_model_files(const std::string& path) {
  return {.path = path,
          .config = core::read_model_config(path),
          .tensors = core::open_tensors(path),
          .tokenizer = core::load_tokenizer(path),
          .quantized = exports::is_quantized_checkpoint(path)};
}

at::Device device_of(const Spec& spec) {
  const bool cuda = at::hasCUDA(), mps = at::hasMPS();
  if (spec.device == "auto") return cuda ? at::kCUDA : mps ? at::kMPS : at::kCPU;
  core::require(spec.device != "cuda" || cuda,
                "{}: this machine or this build of LibTorch has no CUDA. Use device: cpu.", spec.where("device"));
  core::require(spec.device != "mps" || mps, "{}: this machine or this build of LibTorch has no MPS. Use device: cpu.",
                spec.where("device"));
  return at::Device(spec.device);
}

at::ScalarType dtype_of(const Spec& spec) {
  if (spec.model.dtype == "bfloat16") return at::kBFloat16;
  if (spec.model.dtype != "float16") return at::kFloat;
  core::require(!device_of(spec).is_cpu(),
                "{}: float16 products are about 40 times slower than float32 on a CPU. Use float32 or bfloat16.",
                spec.model.where("dtype"));
  return at::kHalf;
}

// float32 products of small models are fast enough, and their numbers are the same on every machine.
std::string dtype_for(int64_t weights, at::Device device, bool has_bfloat16) {
  constexpr int64_t kLarge = 1'000'000'000;
  return weights > kLarge && device.is_cpu() && has_bfloat16 ? "bfloat16" : "float32";
}

core::Weights weights_of(const Spec& spec, const ModelFiles& files) {
  const core::Weights weights =
      core::Weights(files.tensors, dtype_of(spec), device_of(spec)).with(files.prefix.tensors);
  return residency_of(spec, weights) == exports::Residency::stream ? weights.streamed() : weights;
}

exports::Residency residency_of(const Spec& spec, const core::Weights& weights) {
  const std::string& residency = spec.model.residency;
  const bool large = weights.bytes_in_memory() > core::memory_bytes() / 2;
  return residency == "stream" || (residency == "auto" && large) ? exports::Residency::stream
                                                                 : exports::Residency::resident;
}

}  // namespace experiments
