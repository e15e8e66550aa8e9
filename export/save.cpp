// Writing a checkpoint, block by block.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/io/files.h"
#include "core/io/safetensors.h"
#include "core/text/model_texts.h"
#include "export/checkpoint.h"
#include "export/stored_tensor.h"
#include "quant/linear/input_quantized_linear.h"
#include "quant/linear/quantized_linear.h"

namespace exports {

namespace {

namespace fs = std::filesystem;

constexpr const char* kEnds = "ends.safetensors";

std::string name_of_model(const std::string& directory) {
  if (is_quantized_checkpoint(directory)) return manifest_of(directory).model;
  return fs::canonical(directory).filename().string();
}

}  // namespace

// The tensors of one file while they are collected. Keeps alive what it points at.
class Save::Shard {
 public:
  explicit Shard(const core::Weights& source) : source_(source) {}

  // Codes and parameters.
  void add(const std::string& path, const quant::QuantizedLinear& linear) {
    if (linear.codes_of().empty()) add(path + ".codes", linear.codes().packed());
    add(path, linear.parameters());
    if (linear.input() != nullptr) add(path, linear.input()->parameters());
  }

  // A tensor under its Hugging Face name: the source's bytes, unless something has changed it. origin: its name in the
  // source.
  void add_dense(const std::string& name, const at::Tensor& tensor, const std::string& origin) {
    const std::optional<core::TensorView> view = source_.view(origin);
    if (view && source_.same(origin, tensor)) {
      tensors_.push_back({name, view->dtype, view->shape, view->data});
      of_source_.push_back(*view);
    } else {
      add(name, tensor);
    }
  }

  void add_dense(const std::string& name, const at::Tensor& tensor) { add_dense(name, tensor, name); }

  // Everything in a module.
  void add(core::Loadable& loadable, Manifest& manifest) {
    const auto* slot = dynamic_cast<core::Slot*>(&loadable);
    if (slot != nullptr && !slot->filled()) return;  // of a replica: the block has stored it
    const auto* linear = slot == nullptr ? nullptr : dynamic_cast<const quant::QuantizedLinear*>(&slot->linear());
    const auto* input = slot == nullptr ? nullptr : dynamic_cast<const quant::InputQuantizedLinear*>(&slot->linear());
    if (linear == nullptr) {
      const std::vector<core::State> dense = input == nullptr ? loadable.state() : input->inner()->state();
      const std::string prefix = input == nullptr ? "" : slot->path() + ".";
      for (const core::State& state : dense) add_dense(prefix + state.name, state.tensor);
      if (input == nullptr) return;
      add(slot->path(), input->input().parameters());
      manifest.inputs[slot->path()] = {input->input().config(), input->input().place().seed};
      return;
    }
    add(slot->path(), *linear);
    if (slot->has_bias() && slot->original() == nullptr) add_dense(slot->path() + ".bias", linear->bias());
    const quant::WeightFormat& format = linear->format();
    manifest.modules[slot->path()] = {
        format.name(), format.config(), linear->codes().hash(), format.place().seed, {}, format.replication()};
    manifest.modules[slot->path()].codes_of = linear->codes_of();
    if (linear->rotation() != nullptr) manifest.modules[slot->path()].weight.incoherence = linear->rotation()->config();
    if (linear->input() != nullptr) manifest.modules[slot->path()].activation = linear->input()->config();
  }

  const std::vector<core::TensorToWrite>& tensors() const { return tensors_; }
  const std::vector<core::TensorView>& of_source() const { return of_source_; }  // those whose bytes are the source's

 private:
  void add(const std::string& path, const quant::Parameters& parameters) {
    for (const quant::Parameter& parameter : parameters) add(path + "." + parameter.name, stored(parameter));
  }
  void add(const std::string& name, const at::Tensor& tensor) {
    kept_.push_back(tensor.detach().cpu().contiguous());
    tensors_.push_back({name, dtype_of(tensor), tensor.sizes().vec(), kept_.back().const_data_ptr()});
  }

  const core::Weights& source_;
  std::vector<at::Tensor> kept_;
  std::vector<core::TensorToWrite> tensors_;
  std::vector<core::TensorView> of_source_;
};

Save::Save(std::string source_directory, core::Weights source, std::string directory, std::string commit,
           Progress progress)
    : source_directory_(std::move(source_directory)),
      directory_(std::move(directory)),
      source_(std::move(source)),
      progress_(std::move(progress)) {
  manifest_.file = (fs::path(directory_) / kManifestFile).string();
  manifest_.model = name_of_model(source_directory_);
  manifest_.commit = std::move(commit);
}

void Save::begin(core::Model& model) {
  core::create_directories(directory_);
  core::require(!fs::equivalent(directory_, source_directory_),
                "{}: the checkpoint would overwrite the model that it is made from. Choose another --out.", directory_);
  core::require_writable_directory(directory_);
  fs::remove(manifest_.file);
  manifest_.modules.clear();
  manifest_.inputs.clear();
  restore_finished(model);
}

void Save::restore_finished(const core::Model& model) {
  if (progress_.directory.empty()) return;
  core::create_directories(progress_.directory);
  const UnfinishedSource finished(source_, directory_, progress_.directory);
  std::set<int64_t> seen;
  for (const core::Step& step : model.plan()) {
    if (!seen.insert(step.block).second || !finished.finished(step.block)) continue;
    const Manifest block = read_manifest((fs::path(progress_.directory) / description_file(step.block)).string());
    add(block);
    for (core::Stage* stage : progress_.stages) {
      if (const auto found = block.records.find(stage->name()); found != block.records.end())
        stage->restore(found->second);
    }
  }
}

void Save::add(const Manifest& block) {
  manifest_.modules.insert(block.modules.begin(), block.modules.end());
  manifest_.inputs.insert(block.inputs.begin(), block.inputs.end());
}

void Save::block(core::BlockContext& context) {
  Manifest finished{.file = (fs::path(progress_.directory) / description_file(context.index)).string(),
                    .model = manifest_.model,
                    .commit = manifest_.commit,
                    .plan = {},
                    .modules = {}};
  Shard shard(source_);
  const auto add_all = [&](core::Block& block) {
    for (const auto& module : block.modules(/*include_self=*/false)) {
      if (auto* loadable = dynamic_cast<core::Loadable*>(module.get())) shard.add(*loadable, finished);
    }
  };
  add_all(context.block);
  for (core::Block* replica : context.model.replicas(context.index)) add_all(*replica);
  write(shard, shard_file(context.index));
  add(finished);
  if (progress_.directory.empty()) return;
  for (const core::Stage* stage : progress_.stages) {
    if (std::string record = stage->record(); !record.empty()) finished.records[stage->name()] = std::move(record);
  }
  write_manifest(finished);
}

void Save::end(core::Model& model) {
  Shard shard(source_);
  const std::string embedding = model.embedding().path() + ".weight", head = model.head().path() + ".weight";
  const std::string origin = source_.has(embedding) ? embedding : head;  // the source may have a tied pair as the head
  const auto* rows = dynamic_cast<const core::DenseLinear*>(&model.embedding().linear());
  if (rows != nullptr) shard.add_dense(embedding, rows->weight(), origin);
  if (rows == nullptr) shard.add(model.embedding(), manifest_);
  shard.add(model.norm(), manifest_);
  manifest_.untied = model.shape().tied && !core::shares_embedding(model);
  const auto* dense = dynamic_cast<const core::DenseLinear*>(&model.head().linear());
  if (manifest_.untied && dense != nullptr) {  // the source has it as the embedding
    shard.add_dense(head, dense->weight(), origin);
  } else if (!core::shares_embedding(model)) {
    shard.add(model.head(), manifest_);
  }
  write(shard, kEnds);
  write_index(model);
  copy_small_files(model);
  manifest_.plan = model.plan();
  write_manifest(manifest_);
}

void Save::write(const Shard& shard, const std::string& file) const {
  core::write_safetensors((fs::path(directory_) / file).string(), shard.tensors());
  for (const core::TensorView& view : shard.of_source()) source_.source().release(view);
}

// From what the shards hold: those of finished blocks may be older than this process.
void Save::write_index(const core::Model& model) const {
  std::set<std::string> shards{kEnds};
  for (const core::Step& step : model.plan()) shards.insert(shard_file(step.block));
  std::map<std::string, std::string> files;  // tensor -> shard
  size_t bytes = 0;
  for (const std::string& shard : shards) {
    const core::Checkpoint checkpoint = core::Checkpoint::open((fs::path(directory_) / shard).string());
    for (const std::string& name : checkpoint.names()) files[name] = shard;
    bytes += checkpoint.total_bytes();
  }
  const nlohmann::ordered_json index{{"metadata", {{"total_size", bytes}}}, {"weight_map", files}};
  core::write_atomically((fs::path(directory_) / "model.safetensors.index.json").string(), index.dump(2) + "\n");
}

void Save::copy_small_files(const core::Model& model) const {
  std::map<std::string, std::string> files = core::read_model_texts(source_directory_).files;
  // config.json may tie a head that differs from the embedding. What is written says what the model is.
  if (auto json = nlohmann::ordered_json::parse(files.at("config.json"));
      !model.shape().tied && json.value("tie_word_embeddings", false)) {
    json["tie_word_embeddings"] = false;
    files["config.json"] = json.dump(2) + "\n";
  }
  for (const auto& [name, content] : files) core::write_atomically((fs::path(directory_) / name).string(), content);
}

}  // namespace exports
