#include "experiments/inputs/resources.h"

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/io/model_path.h"
#include "experiments/inputs/calibration_text.h"

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
  const std::string key = files.path + "\n" + asked.kind->name + "\n" + core::to_yaml(options);
  std::shared_ptr<const Prepared>& prepared = prepared_[key];
  if (prepared == nullptr) {
    prepared = std::make_shared<const Prepared>(asked.measure().prepare(*texts(files, shape)));
  }
  return prepared;
}

const core::Windows& Resources::calibration(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  const CalibrationConfig& config = spec.calibration;
  const double kept_back = held_out_of_calibration(spec);
  const std::string key = fmt::format("{} {} {} {} {} {} {}", files.path, config.corpus, config.samples, config.seq_len,
                                      config.sampling, spec.seed, kept_back);
  if (const auto found = calibration_.find(key); found != calibration_.end()) return found->second;
  const std::vector<int32_t> ids = beginning_of(tokens(core::find_corpus(config.corpus), *files.tokenizer), kept_back);
  return calibration_.emplace(key, calibration_windows(config, ids, shape, static_cast<uint64_t>(spec.seed)))
      .first->second;
}

const TrainingText* Resources::training(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  if (!spec.qat.selected()) return nullptr;
  const std::string corpus = training_corpus(spec), &other = spec.qat.held_out_corpus;
  const std::string key = fmt::format("{} {} {} {} {} {}", files.path, corpus, training_length(spec), spec.qat.held_out,
                                      other, spec.qat.held_out_windows);
  if (const auto found = training_.find(key); found != training_.end()) return &found->second;
  const std::vector<int32_t>* held_out = other.empty() ? nullptr : &tokens(core::find_corpus(other), *files.tokenizer);
  return &training_
              .emplace(key, training_text(spec, tokens(core::find_corpus(corpus), *files.tokenizer), held_out, shape))
              .first->second;
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
