// What the tests of models share: the golden checkpoints, loaded, and what transformers computed on them.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <string>
#include <vector>

#include "core/error.h"
#include "core/model.h"

// Directory of a golden checkpoint, and the names of all of them.
std::string golden_directory(const std::string& name);
std::vector<std::string> golden_names();
// Its `model_type`, as models::families() names it.
std::string family_of(const std::string& golden);

// The model of a folder or a GGUF file with its weights, in float32 on the CPU.
std::shared_ptr<core::Model> load_model(const std::string& path);

// A tensor of <golden>/expected.safetensors: "ids", "block.0", "logits", ...
at::Tensor expected_of(const std::string& golden, const std::string& name);

// Largest absolute difference, computed in double.
double difference(const at::Tensor& a, const at::Tensor& b);

// Text of a file of the model's directory, for tests that change a config.
std::string golden_file(const std::string& golden, const std::string& file);

// The message of the UserError that `action` throws; "" if it throws none.
template <typename Action>
std::string message_of(Action action) {
  try {
    action();
  } catch (const core::UserError& error) {
    return error.what();
  }
  return "";
}
