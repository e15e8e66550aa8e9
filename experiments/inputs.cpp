#include "experiments/inputs.h"

#include <ATen/Context.h>

#include <cstring>
#include <filesystem>

#include "core/error.h"
#include "core/machine.h"
#include "experiments/assignments.h"
#include "experiments/experts.h"
#include "models/registry.h"
#include "quant/apply_transforms.h"
#include "quant/kernels/product.h"

namespace experiments {

const ModelFiles& Inputs::model(const std::string& name_or_path) {
  const std::string directory = core::find_model(name_or_path);
  if (const auto found = models_.find(directory); found != models_.end()) return found->second;
  ModelFiles files{.directory = directory,
                   .config = core::read_hf_config(directory),
                   .checkpoint = std::make_shared<const core::Checkpoint>(core::Checkpoint::open(directory)),
                   .tokenizer = core::load_tokenizer(directory),
                   .quantized = exports::is_quantized_checkpoint(directory)};
  return models_.emplace(directory, std::move(files)).first->second;
}

std::string Inputs::model_hash(const ModelFiles& files) {
  std::vector<std::string> paths = files.checkpoint->files();
  for (const char* name : {"config.json", "refrain.json"}) {
    const std::string path = files.directory + "/" + name;
    if (std::filesystem::exists(path)) paths.push_back(path);
  }
  core::Hasher hasher;
  for (const std::string& path : paths) {
    hasher.update(std::filesystem::path(path).filename().string());
    hasher.update(hashes_.of(path));
  }
  return hasher.hex();
}

const core::Windows* Inputs::calibration(const ModelFiles& files, const Spec& spec, core::Model& model) {
  if (spec.quant.method == quant::QuantConfig::kNone) return nullptr;
  const bool transforms = !quant::transforms_of(spec.transform, spec.quant).empty();
  const bool replicated = spec.replication.selected();  // its errors are measured
  if (!transforms && !replicated && !spec.quant.expert_bits.selected() && !spec.qat.tunes_blocks() &&
      !quant::needs_statistics(assignments(spec, model)))
    return nullptr;
  const CalibrationConfig& config = spec.calibration;
  const double kept_back = held_out_of_calibration(spec);
  const std::string key = fmt::format("calibration {} {} {} {} {} {} {}", files.directory, config.corpus,
                                      config.samples, config.seq_len, config.sampling, spec.seed, kept_back);
  auto found = windows_.find(key);
  if (found == windows_.end()) {
    found = windows_
                .emplace(key, calibration_windows(
                                  config,
                                  beginning_of(tokens(core::find_corpus(config.corpus), *files.tokenizer), kept_back),
                                  model.shape(), static_cast<uint64_t>(spec.seed)))
                .first;
  }
  return &found->second;
}

const TrainingText* Inputs::training(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  if (!spec.qat.selected()) return nullptr;
  const std::string corpus = training_corpus(spec), &other = spec.qat.held_out_corpus;
  const std::string key = fmt::format("{} {} {} {} {} {}", files.directory, corpus, training_length(spec),
                                      spec.qat.held_out, other, spec.qat.held_out_windows);
  if (const auto found = training_.find(key); found != training_.end()) return &found->second;
  const std::vector<int32_t>* held_out = other.empty() ? nullptr : &tokens(core::find_corpus(other), *files.tokenizer);
  return &training_
              .emplace(key, training_text(spec, tokens(core::find_corpus(corpus), *files.tokenizer), held_out, shape))
              .first->second;
}

const Prompts* Inputs::prompts(const ModelFiles& files, const Spec& spec, const core::Shape& shape) {
  if (!spec.measure.writes()) return nullptr;
  const GenerationConfig& config = spec.measure.generation;
  const std::string key = fmt::format("{} {} {} {} {}", files.directory, config.corpus, config.prompts,
                                      config.prompt_tokens, config.new_tokens);
  if (const auto found = prompts_.find(key); found != prompts_.end()) return &found->second;
  const std::vector<int32_t>& ids = tokens(core::find_corpus(config.corpus), *files.tokenizer);
  return &prompts_.emplace(key, make_prompts(config, ids, *files.tokenizer, shape)).first->second;
}

const core::Windows& Inputs::windows(const ModelFiles& files, const PerplexityConfig& config,
                                     const core::Shape& shape) {
  core::require(config.length() <= shape.context, "{} is {}, longer than the context of {} ({} tokens). Lower it.",
                config.where("seq_len"), config.length(), files.directory, shape.context);
  const std::string key = fmt::format("{} {} {} {} {} {}", files.directory, config.corpus, config.protocol,
                                      config.length(), config.bos, config.windows);
  if (const auto found = windows_.find(key); found != windows_.end()) return found->second;
  const core::Corpus corpus = core::find_corpus(config.corpus);
  const core::WindowOptions options{.protocol = config.protocol,
                                    .seq_len = config.length(),
                                    .bos = config.bos,
                                    .windows = config.windows,
                                    .embedding_rows = shape.vocabulary};
  const std::vector<int32_t>& ids = tokens(corpus, *files.tokenizer);
  return windows_.emplace(key, core::make_windows(corpus, ids, *files.tokenizer, options)).first->second;
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

const std::vector<int32_t>& Inputs::tokens(const core::Corpus& corpus, const core::Tokenizer& tokenizer) {
  const core::CacheKey key{"tokens", core::kTokensVersion,
                           fmt::format("tokenizer: {}\ntext: {}\njoin: {}\n", tokenizer.hash(), hashes_.of(corpus.path),
                                       corpus.join.text())};
  if (const auto known = tokens_.find(key.id()); known != tokens_.end()) return known->second;
  if (const auto entry = cache_.find(key)) return tokens_[key.id()] = ids_of(entry->read(kIds));
  ++texts_tokenized_;
  new_tokens_.push_back(key);
  return tokens_[key.id()] = tokenizer.encode(core::load_corpus(corpus.name).text);
}

void Inputs::remember_tokens() {
  for (const core::CacheKey& key : new_tokens_) {
    core::CacheEntry entry = cache_.open(key);
    if (entry.complete()) continue;  // another process was faster
    entry.write(kIds, bytes_of(tokens_.at(key.id())));
    entry.commit();
  }
  new_tokens_.clear();
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

core::Weights weights_of(const Spec& spec, const ModelFiles& files) {
  const core::Weights weights(files.checkpoint, dtype_of(spec), device_of(spec));
  return residency_of(spec, weights) == exports::Residency::stream ? weights.streamed() : weights;
}

exports::Residency residency_of(const Spec& spec, const core::Weights& weights) {
  const std::string& residency = spec.model.residency;
  const bool large = weights.bytes_in_memory() > core::memory_bytes() / 2;
  return residency == "stream" || (residency == "auto" && large) ? exports::Residency::stream
                                                                 : exports::Residency::resident;
}

namespace {

// Token by token, a block that is not in memory would be read again for each.
void check_decoding(const Spec& spec, Inputs& inputs, const ModelFiles& files, const core::Shape& shape) {
  if (spec.measure.times()) spec.measure.latency.check_context(shape);
  inputs.prompts(files, spec, shape);
  const bool decodes = spec.measure.times() || spec.measure.writes();
  const char* key = spec.measure.times() ? "latency" : "generation";
  core::require(!decodes || residency_of(spec, weights_of(spec, files)) == exports::Residency::resident,
                "{}: tokens are generated with all weights in memory, and this model is streamed. Set model.residency: "
                "resident, or leave {} out.",
                spec.measure.where(key), key);
}

}  // namespace

void check_point(const Spec& spec, Inputs& inputs) {
  device_of(spec);                                                // refuses one that is not there
  if (spec.runtime.is_packed()) quant::kernels::chosen_kernel();  // refuses what REFRAIN_KERNEL may name
  const ModelFiles& files = inputs.model(spec.model.path);
  const auto model = models::build(files.config);
  const bool quantizes = spec.quant.method != quant::QuantConfig::kNone;
  core::require(!(quantizes && files.quantized), "{}: {} is quantized already. Use method: none to measure it.",
                spec.quant.where("method"), files.directory);
  exports::check(*model, files.directory, weights_of(spec, files));
  core::require(!spec.replication.selected() || model->plan() == core::default_plan(model->shape().layers),
                "{}: {} has a plan of its own. Replicate when it is quantized.", spec.replication.where("strategy"),
                files.directory);
  inputs.calibration(files, spec, *model);
  for (const PerplexityConfig& config : spec.measure.perplexity) inputs.windows(files, config, model->shape());
  check_decoding(spec, inputs, files, model->shape());
  if (!quantizes) return follow_plan(spec, *model);
  const std::vector<quant::Assignment> assigned = assignments(spec, *model);
  check_expert_bits(spec, *model);
  if (!spec.qat.selected()) return;
  quant::check_trainable(spec.qat, assigned, model->plan());
  inputs.training(files, spec, model->shape());
}

}  // namespace experiments
