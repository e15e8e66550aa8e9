#include "experiments/inputs/resources.h"

#include <cmath>
#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/io/model_path.h"
#include "experiments/inputs/cache_key.h"
#include "experiments/inputs/calibration_text.h"
#include "experiments/inputs/generated_text.h"

namespace experiments {

const ModelFiles& Resources::model(const std::string& name_or_path) {
  const std::string path = core::find_model(name_or_path);
  if (const auto found = models_.find(path); found != models_.end()) return found->second;
  return models_.emplace(path, open_model_files(path)).first->second;
}

std::string Resources::model_hash(const ModelFiles& files) {
  std::vector<std::string> paths = files.tensors->files();
  for (const char* name : {"config.json", "refrain.json"}) {
    const std::string path = files.path + "/" + name;
    if (std::filesystem::exists(path)) paths.push_back(path);
  }
  core::Hasher hasher;
  for (const std::string& path : paths) {
    hasher.update(std::filesystem::path(path).filename().string());
    hasher.update(hashes_.of(path));
  }
  if (files.prefix.tensors != nullptr) hasher.update(fmt::format("prefix {}", fmt::join(files.prefix.tokens, " ")));
  return hasher.hex();
}

namespace {

// The texts of one model, through the memory of the resources.
class TextsOfModel : public Texts {
 public:
  TextsOfModel(Resources& resources, const ModelFiles& files, const core::Shape& shape)
      : resources_(resources), files_(files), shape_(shape) {}

  const core::Shape& shape() const override { return shape_; }
  const core::Tokenizer& tokenizer() const override { return *files_.tokenizer; }
  const std::string& model_directory() const override { return files_.path; }
  const std::vector<int32_t>& tokens(const core::Corpus& corpus) override {
    return resources_.tokens(corpus, *files_.tokenizer);
  }

 private:
  Resources& resources_;
  const ModelFiles& files_;
  const core::Shape& shape_;
};

}  // namespace

std::unique_ptr<Texts> Resources::texts(const ModelFiles& files, const core::Shape& shape) {
  return std::make_unique<TextsOfModel>(*this, files, shape);
}

std::shared_ptr<const Prepared> Resources::prepared(const ModelFiles& files, const core::Shape& shape,
                                                    const Asked& asked) {
  core::Node options = core::to_node(const_cast<Measure&>(asked.measure()));  // only reads it
  const std::string key =
      fmt::format("{}\n{}\n{}\n{}", files.path, shape.context, asked.kind->name, core::to_yaml(options));
  std::shared_ptr<const Prepared>& prepared = prepared_[key];
  if (prepared == nullptr) {
    prepared = std::make_shared<const Prepared>(asked.measure().prepare(*texts(files, shape)));
  }
  return prepared;
}

namespace {

// The context is part of both keys: behind a prefix a text may be less long.
std::string key_of_calibration(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  const CalibrationConfig& config = spec.calibration;
  return fmt::format("{} {} {} {} {} {} {} {}", files.path, shape.context, config.corpus, config.samples,
                     config.seq_len, config.sampling, spec.seed, held_out_of_calibration(spec));
}

std::string key_of_training(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  const std::string corpus = training_corpus(spec);
  std::string key = fmt::format("{} {} {} {} {} {} {}", files.path, shape.context, corpus, training_length(spec),
                                spec.qat.held_out, spec.qat.held_out_corpus, spec.qat.held_out_windows);
  if (corpus == kGenerated) key += fmt::format(" {} {} {}", spec.seed, spec.qat.steps, spec.qat.batch);
  return key;
}

// As many tokens as a text has that is not written yet.
std::vector<int32_t> no_tokens(int64_t sequences, int64_t length) { return std::vector<int32_t>(sequences * length); }

// In place of the hash of the tokens of a generated text: of all that they depend on beside the model, so that a run
// has its id before they are written.
std::string hash_of_generated(const Spec& spec, const std::string& key) {
  return core::hash_text(fmt::format("{} {} {}", kGeneratedVersion, spec.seed, key));
}

// Calibration windows of a generated text are its sequences.
core::Windows windows_of_generated(const Spec& spec, const std::vector<int32_t>& ids, const core::Shape& shape) {
  CalibrationConfig config = spec.calibration;
  config.sampling = "sequential";
  core::Windows windows = calibration_windows(config, ids, shape, 0);
  windows.token_hash = hash_of_generated(spec, fmt::format("calibration {} {}", config.samples, config.seq_len));
  return windows;
}

// Sequences of a generated text to train on: a new one for every window of every step, and what is held out.
int64_t training_sequences(const Spec& spec) {
  const auto trained = static_cast<double>(spec.qat.steps * spec.qat.batch);
  const double share = spec.qat.held_out_corpus.empty() ? spec.qat.held_out : 0;
  const double least = share > 0 ? 1 / share : 0;  // so that a whole one is held out
  return static_cast<int64_t>(std::ceil(std::max(trained / (1 - share), least))) + 1;
}

TrainingText training_of_generated(const Spec& spec, const std::vector<int32_t>& ids,
                                   const std::vector<int32_t>* held_out, const core::Shape& shape) {
  TrainingText text = training_text(spec, ids, held_out, shape);
  text.train.token_hash = hash_of_generated(spec, fmt::format("training {} {}", training_sequences(spec), ids.size()));
  if (text.held_out && held_out == nullptr) text.held_out->token_hash = text.train.token_hash;
  return text;
}

}  // namespace

const core::Windows& Resources::calibration(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  const CalibrationConfig& config = spec.calibration;
  const std::string key = key_of_calibration(files, spec, shape);
  if (const auto found = calibration_.find(key); found != calibration_.end()) return found->second;
  if (config.corpus == kGenerated) {
    require_resident(spec, files, config.where("corpus"));
    const std::vector<int32_t> ids = no_tokens(config.samples, config.seq_len);
    return calibration_.emplace(key, windows_of_generated(spec, ids, shape)).first->second;
  }
  const std::vector<int32_t> ids =
      beginning_of(tokens(core::find_corpus(config.corpus), *files.tokenizer), held_out_of_calibration(spec));
  return calibration_.emplace(key, calibration_windows(config, ids, shape, static_cast<uint64_t>(spec.seed)))
      .first->second;
}

const TrainingText* Resources::training(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  if (!spec.qat.selected()) return nullptr;
  const std::string corpus = training_corpus(spec), &other = spec.qat.held_out_corpus;
  const std::string key = key_of_training(files, spec, shape);
  if (const auto found = training_.find(key); found != training_.end()) return &found->second;
  const std::vector<int32_t>* held_out = other.empty() ? nullptr : &tokens(core::find_corpus(other), *files.tokenizer);
  if (corpus == kGenerated) {
    require_resident(spec, files, spec.qat.where("corpus"));
    const std::vector<int32_t> ids = no_tokens(training_sequences(spec), training_length(spec));
    return &training_.emplace(key, training_of_generated(spec, ids, held_out, shape)).first->second;
  }
  return &training_
              .emplace(key, training_text(spec, tokens(core::find_corpus(corpus), *files.tokenizer), held_out, shape))
              .first->second;
}

void Resources::write_generated(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  const auto calibration = calibration_.find(key_of_calibration(files, spec, shape));
  if (spec.calibration.corpus == kGenerated && calibration != calibration_.end() &&
      generated_.insert("calibration " + calibration->first).second) {
    const CalibrationConfig& config = spec.calibration;
    calibration->second =
        windows_of_generated(spec, written(files, spec, config.samples, config.seq_len, "calibration"), shape);
  }
  if (!spec.qat.selected() || training_corpus(spec) != kGenerated) return;
  const auto training = training_.find(key_of_training(files, spec, shape));
  if (training == training_.end() || !generated_.insert("training " + training->first).second) return;
  const std::string& other = spec.qat.held_out_corpus;
  const std::vector<int32_t>* held_out = other.empty() ? nullptr : &tokens(core::find_corpus(other), *files.tokenizer);
  training->second = training_of_generated(
      spec, written(files, spec, training_sequences(spec), training_length(spec), "training"), held_out, shape);
}

namespace {

constexpr const char* kIds = "ids.i32";  // little-endian

std::string bytes_of(const std::vector<int32_t>& ids) {
  return {reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)};
}

std::vector<int32_t> ids_of(const std::string& bytes) {
  std::vector<int32_t> ids(bytes.size() / sizeof(int32_t));
  std::memcpy(ids.data(), bytes.data(), ids.size() * sizeof(int32_t));
  return ids;
}

}  // namespace

std::vector<int32_t> Resources::written(const ModelFiles& files, const Spec& spec, int64_t sequences, int64_t length,
                                        const std::string& purpose) {
  core::CacheEntry entry = cache_.open(cache_key(spec, {.stage = "generated",
                                                        .version = kGeneratedVersion,
                                                        .keys = {},
                                                        .inputs = {{"model", model_hash(files)},
                                                                   {"tokenizer", files.tokenizer->hash()},
                                                                   {"purpose", purpose},
                                                                   {"seed", std::to_string(spec.seed)},
                                                                   {"sequences", std::to_string(sequences)},
                                                                   {"length", std::to_string(length)}}}));
  if (!entry.complete()) {
    entry.write(kIds, bytes_of(generated_ids(spec, files, sequences, length, purpose)));
    entry.commit();
  }
  return ids_of(entry.read(kIds));
}

const std::vector<int32_t>& Resources::tokens(const core::Corpus& corpus, const core::Tokenizer& tokenizer) {
  const core::CacheKey key{"tokens", core::kTokensVersion,
                           fmt::format("tokenizer: {}\ntext: {}\njoin: {}\n", tokenizer.hash(), hashes_.of(corpus.path),
                                       corpus.join.text())};
  if (const auto known = tokens_.find(key.id()); known != tokens_.end()) return known->second;
  if (const auto entry = cache_.find(key)) return tokens_[key.id()] = ids_of(entry->read(kIds));
  ++texts_tokenized_;
  new_tokens_.push_back(key);
  return tokens_[key.id()] = tokenizer.encode(core::load_corpus(corpus.name).text);
}

void Resources::remember_tokens() {
  for (const core::CacheKey& key : new_tokens_) {
    core::CacheEntry entry = cache_.open(key);
    if (entry.complete()) continue;  // another process was faster
    entry.write(kIds, bytes_of(tokens_.at(key.id())));
    entry.commit();
  }
  new_tokens_.clear();
}

}  // namespace experiments
