// What runs read: models, tokenizers and texts, each opened, hashed and tokenized once however many points ask for it.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/io/cache.h"
#include "core/io/hash.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "core/text/tokenizer.h"
#include "core/text/windows.h"
#include "core/walk.h"
#include "experiments/spec.h"
#include "experiments/training_text.h"
#include "export/checkpoint.h"

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
  // cache_directory: <out>/.cache, where content hashes, token ids and what stages measured are remembered between
  // calls; "": nowhere. Nothing is written there before the directory exists.
  explicit Inputs(const std::string& cache_directory, int64_t cache_limit = core::Cache::kDefaultLimit)
      : cache_(cache_directory, cache_limit), hashes_(cache_directory.empty() ? "" : cache_directory + "/hashes") {}

  // What stages remember; the keys are made by cache_key().
  const core::Cache& cache() const { return cache_; }

  const ModelFiles& model(const std::string& name_or_path);
  // Content of config.json, tensors and (ours) refrain.json; of a big model this reads every byte, once.
  std::string model_hash(const ModelFiles& files);
  // Token ids come from the cache when the same tokenizer has seen the same text before.
  const core::Windows& windows(const ModelFiles& files, const PerplexityConfig& config, const core::Shape& shape);
  // The text on which the quantizer looks at inputs; null when neither its method nor its grids ask for that.
  const core::Windows* calibration(const ModelFiles& files, const Spec& spec, core::Model& model);

  // The prompts of measure.generation; null when it is not measured.
  const Prompts* prompts(const ModelFiles& files, const Spec& spec, const core::Shape& shape);

  // The text that parameters are trained on; null when none are.
  const TrainingText* training(const ModelFiles& files, const Spec& spec, const core::Shape& shape);

  // Puts the token ids that are new into the cache: to be called once it may be written.
  void remember_tokens();
  // How many texts were really tokenized by this object.
  int64_t texts_tokenized() const { return texts_tokenized_; }

 private:
  // All ids of a text, without BOS.
  const std::vector<int32_t>& tokens(const core::Corpus& corpus, const core::Tokenizer& tokenizer);

  core::Cache cache_;
  core::HashMemo hashes_;
  std::map<std::string, ModelFiles> models_;            // by directory
  std::map<std::string, std::vector<int32_t>> tokens_;  // by cache key
  std::vector<core::CacheKey> new_tokens_;              // not yet in the cache
  std::map<std::string, core::Windows> windows_;        // by all that they depend on
  std::map<std::string, TrainingText> training_;        // likewise
  std::map<std::string, Prompts> prompts_;              // likewise
  int64_t texts_tokenized_ = 0;
};

at::Device device_of(const Spec& spec);     // error when the machine lacks it
at::ScalarType dtype_of(const Spec& spec);  // error for float16 on a CPU
core::Weights weights_of(const Spec& spec, const ModelFiles& files);
// model.residency for these weights. auto: stream when they would fill more than half of the memory.
exports::Residency residency_of(const Spec& spec, const core::Weights& weights);

// Everything that can be known to be wrong with a point before a tensor is read: model, shapes, rules, texts, device.
// replication::NoControl for a control that cannot be built.
void check_point(const Spec& spec, Inputs& inputs);

}  // namespace experiments
