// What runs read: models, tokenizers and texts, each opened, hashed and tokenized once however many points ask for it.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "core/io/hash.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "core/text/tokenizer.h"
#include "core/text/windows.h"
#include "core/walk.h"
#include "experiments/spec.h"

namespace experiments {

// A model directory: its header is read, its tensors are mapped and not yet touched.
struct ModelFiles {
  std::string directory;
  core::JsonObject config;
  std::shared_ptr<const core::Checkpoint> checkpoint;
  std::shared_ptr<const core::Tokenizer> tokenizer;
  bool quantized;  // our own checkpoint, with codes
};

class Inputs {
 public:
  // memo_file: where content hashes are remembered between calls.
  explicit Inputs(const std::string& memo_file) : hashes_(memo_file) {}

  const ModelFiles& model(const std::string& name_or_path);
  // Content of config.json, tensors and (ours) refrain.json; of a big model this reads every byte, once.
  std::string model_hash(const ModelFiles& files);
  const core::Windows& windows(const ModelFiles& files, const PerplexityConfig& config, const core::Shape& shape);
  // The text on which the quantizer looks at inputs; null when neither its method nor its grids ask for that.
  const core::Windows* calibration(const ModelFiles& files, const Spec& spec, core::Model& model);

 private:
  const core::Corpus& corpus(const std::string& name);

  core::HashMemo hashes_;
  std::map<std::string, ModelFiles> models_;      // by directory
  std::map<std::string, core::Corpus> corpora_;   // by name
  std::map<std::string, core::Windows> windows_;  // by all that they depend on
};

at::Device device_of(const Spec& spec);     // error when the machine lacks it
at::ScalarType dtype_of(const Spec& spec);  // error for float16 on a CPU
core::Weights weights_of(const Spec& spec, const ModelFiles& files);

// Everything that can be known to be wrong with a point before a tensor is read: model, shapes, rules, texts, device.
void check_point(const Spec& spec, Inputs& inputs);

}  // namespace experiments
