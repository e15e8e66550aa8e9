// What runs read: models, tokenizers and texts, each opened, hashed and tokenized once however many points ask for it.
#pragma once

#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "core/io/cache.h"
#include "core/io/hash.h"
#include "core/text/windows.h"
#include "experiments/config/spec.h"
#include "experiments/inputs/model_files.h"
#include "experiments/inputs/training_text.h"

namespace experiments {

class Resources {
 public:
  // cache_directory: <out>/.cache, where content hashes, token ids and what stages measured are remembered between
  // calls; "": nowhere. Nothing is written there before the directory exists.
  explicit Resources(const std::string& cache_directory, int64_t cache_limit = core::Cache::kDefaultLimit)
      : cache_(cache_directory, cache_limit), hashes_(cache_directory.empty() ? "" : cache_directory + "/hashes") {}

  // What stages remember; the keys are made by cache_key().
  const core::Cache& cache() const { return cache_; }

  const ModelFiles& model(const std::string& name_or_path);
  // Content of config.json, tensors and (ours) refrain.json; of a big model this reads every byte, once.
  std::string model_hash(const ModelFiles& files);
  std::string file_hash(const std::string& path) { return hashes_.of(path); }

  // The texts of a model, through the memory of this object. files, shape: outlive it.
  std::unique_ptr<Texts> texts(const ModelFiles& files, const core::Shape& shape);
  // A measurement with its texts tokenized; equal ones of one model are prepared once.
  std::shared_ptr<const Prepared> prepared(const ModelFiles& files, const core::Shape& shape, const Asked& asked);
  // The text on which the quantizer looks at inputs, without what training holds out of it. A generated text has no
  // tokens before `write_generated`.
  const core::Windows& calibration(const ModelFiles& files, const Spec& spec, const core::Shape& shape);
  // The text that parameters are trained on; null when none are.
  const TrainingText* training(const ModelFiles& files, const Spec& spec, const core::Shape& shape);
  // Lets the model write the texts that the configuration calls `generated`, each once; they come from the cache when
  // it has written them before.
  void write_generated(const ModelFiles& files, const Spec& spec, const core::Shape& shape);

  // All ids of a text, without BOS. They come from the cache when the same tokenizer has seen the same text before.
  const std::vector<int32_t>& tokens(const core::Corpus& corpus, const core::Tokenizer& tokenizer);
  // Puts the token ids that are new into the cache: to be called once it may be written.
  void remember_tokens();
  // How many texts were really tokenized by this object.
  int64_t texts_tokenized() const { return texts_tokenized_; }

 private:
  std::vector<int32_t> written(const ModelFiles& files, const Spec& spec, int64_t sequences, int64_t length,
                               const std::string& purpose);

  core::Cache cache_;
  core::HashMemo hashes_;
  std::map<std::string, ModelFiles> models_;            // by path
  std::map<std::string, std::vector<int32_t>> tokens_;  // by cache key
  std::vector<core::CacheKey> new_tokens_;              // not yet in the cache
  // By all that they depend on:
  std::map<std::string, core::Windows> calibration_;
  std::map<std::string, TrainingText> training_;
  std::map<std::string, std::shared_ptr<const Prepared>> prepared_;
  std::set<std::string> generated_;  // keys of texts that have been written
  int64_t texts_tokenized_ = 0;
};

}  // namespace experiments
