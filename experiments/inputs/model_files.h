// The model of a run before its tensors are read: its files, and where and how it is computed.
#pragma once

#include <memory>
#include <string>

#include "core/io/hf_config.h"
#include "core/io/tensor_source.h"
#include "core/nn/weights.h"
#include "core/text/tokenizer.h"
#include "experiments/config/spec.h"
#include "export/checkpoint.h"

namespace experiments {

// A model: its configuration and tokenizer are read, its tensors are mapped and not yet touched.
struct ModelFiles {
  // Keys and values of tokens in front of every text (experiments/inputs/prefix.h).
  struct Prefix {
    std::vector<int64_t> tokens = {};
    std::shared_ptr<const core::Weights::Added> tensors = {};  // null: there is none
  };

  std::string path;  // the folder or the GGUF file
  core::JsonObject config;
  std::shared_ptr<const core::TensorSource> tensors;
  std::shared_ptr<const core::Tokenizer> tokenizer;
  bool quantized;  // our own checkpoint, with codes
  Prefix prefix = {};
};

ModelFiles open_model_files(const std::string& path);

at::Device device_of(const Spec& spec);     // error when the machine lacks it
at::ScalarType dtype_of(const Spec& spec);  // error for float16 on a CPU

// What model.dtype: auto stands for. weights: of the model; has_bfloat16: the CPU multiplies it (core/machine.h).
std::string dtype_for(int64_t weights, at::Device device, bool has_bfloat16);

core::Weights weights_of(const Spec& spec, const ModelFiles& files);
// model.residency for these weights. auto: stream when they would fill more than half of the memory.
exports::Residency residency_of(const Spec& spec, const core::Weights& weights);

}  // namespace experiments
