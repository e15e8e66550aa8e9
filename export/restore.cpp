// Reading a checkpoint back. What refrain.json says is compared with what the files hold before a tensor is read.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <functional>
#include <set>

#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/gguf_sidecar.h"
#include "core/io/model_path.h"
#include "core/io/safetensors.h"
#include "core/plan_stream.h"
#include "export/checkpoint.h"
#include "quant/linear/input_quantized_linear.h"
#include "quant/linear/quantized_linear.h"
#include "replication/config.h"

namespace exports {

namespace {

namespace fs = std::filesystem;

constexpr const char* kAgain = "Write the checkpoint again";
constexpr int64_t kMostReplicas = 1024;  // of a block

int64_t packed_bytes(int64_t columns, int64_t bits) { return (columns * bits + 7) / 8; }

std::shared_ptr<const quant::WeightFormat> format_of(const core::Slot& slot, const QuantizedModule& module,
                                                     const Manifest& manifest) {
  const auto format = replication::restored_format(module.weight, module.replication, {slot.path(), module.seed},
                                                   {slot.out_features(), slot.in_features()},
                                                   "modules." + slot.path() + ".replication");
  core::require(
      format->name() == module.format,
      "{}: modules.{}.decoder is `{}`, but these variables make `{}`. Use the Refrain that wrote the checkpoint.",
      manifest.file, slot.path(), module.format, format->name());
  return format;
}

// ---- tensors of bytes: codes and packed zeros ----

void check_bytes(const core::TensorSource& source, const std::string& name, const std::vector<int64_t>& shape) {
  const core::StoredTensor stored = source.stored(name);
  core::require(stored.type == core::name_of(core::DType::U8) && stored.shape == shape,
                "{}: {} is {} [{}], not U8 [{}]. {}.", source.file_of(name), name, stored.type,
                fmt::join(stored.shape, ", "), fmt::join(shape, ", "), kAgain);
}

// Those of a GGUF file that a sidecar stands beside.
core::Codes taken_apart(const core::StoredCodes& stored, int64_t rows, int64_t columns, int64_t bits,
                        at::Device device) {
  at::Tensor codes = at::empty({rows, columns}, at::kByte);
  uint8_t* to = codes.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows, 16, [&](int64_t begin, int64_t end) {
    std::vector<core::GgmlBlock> row(static_cast<size_t>(columns / stored.block));
    for (int64_t o = begin; o < end; ++o) {
      stored.row(o, row.data());
      for (int64_t i = 0; i < columns; ++i)
        to[o * columns + i] = row[static_cast<size_t>(i / stored.block)].codes[static_cast<size_t>(i % stored.block)];
    }
  });
  return core::Codes::pack(codes.to(device), bits);
}

core::Codes read_codes(const core::Weights& weights, const std::string& name, int64_t columns, int64_t bits) {
  const core::StoredTensor stored = weights.source().stored(name);
  if (!stored.view) return taken_apart(*stored.codes, stored.shape[0], columns, bits, weights.device());
  const core::TensorView& view = *stored.view;
  at::Tensor packed = at::empty(view.shape, at::kByte);
  std::memcpy(packed.mutable_data_ptr(), view.data, view.bytes);
  weights.source().release(view);
  return core::Codes::from_packed(packed.to(weights.device()), columns, bits);
}

// ---- quantized inputs ----

std::shared_ptr<const quant::InputQuantizer> input_of(const core::Slot& slot, const quant::ActivationConfig& activation,
                                                      uint64_t seed) {
  return quant::make_input_quantizer(activation, slot.path(), slot.in_features(), seed);
}

void check_input(const core::Slot& slot, const quant::ActivationConfig& activation, const core::Weights& weights) {
  const auto input = input_of(slot, activation, 0);
  if (input == nullptr) return;
  for (const quant::Parameter& p : input->parameters()) weights.check(slot.path() + "." + p.name, p.shape);
}

// With the parameters of a static one, in memory of their own.
std::shared_ptr<const quant::InputQuantizer> read_input(const core::Slot& slot,
                                                        const quant::ActivationConfig& activation, uint64_t seed,
                                                        const core::Weights& weights) {
  const auto input = input_of(slot, activation, seed);
  if (input == nullptr || input->parameters().empty()) return input;
  quant::Parameters parameters = input->parameters();
  for (quant::Parameter& p : parameters)
    p.tensor = weights.in(at::kFloat).read(slot.path() + "." + p.name, p.shape).tensor.clone();
  return input->with(std::move(parameters));
}

// ---- one quantized linear ----

// Path of the linear that stores its codes.
const std::string& owner_of_codes(const core::Slot& slot, const QuantizedModule& module) {
  return module.codes_of.empty() ? slot.path() : module.codes_of;
}

// The codes of the linear at a path, of so many columns and bits: where they are is for the caller to say.
using ReadCodes = std::function<core::Codes(const std::string& path, int64_t columns, int64_t bits)>;

void check_quantized(const core::Slot& slot, const QuantizedModule& module, const Manifest& manifest,
                     const core::Weights& weights) {
  const auto format = format_of(slot, module, manifest);
  const std::string prefix = slot.path() + ".";
  check_bytes(weights.source(), owner_of_codes(slot, module) + ".codes",
              {slot.out_features(), packed_bytes(slot.in_features(), format->code_bits())});
  for (const quant::Parameter& p : format->layout(slot.out_features(), slot.in_features())) {
    if (core::is_codes(p.kind)) {
      check_bytes(weights.source(), prefix + p.name, {p.shape[0], packed_bytes(p.shape[1], p.stored_bits)});
    } else {
      weights.check(prefix + p.name, p.shape);
    }
  }
  if (slot.has_bias() && slot.original() == nullptr) weights.check(prefix + "bias", {slot.out_features()});
  check_input(slot, module.activation, weights);
}

// Parameters live in float32 whatever the compute dtype, in memory of their own because training writes to them.
quant::Parameters read_parameters(const core::Slot& slot, const quant::WeightFormat& format,
                                  const core::Weights& weights) {
  const core::Weights exact = weights.in(at::kFloat);
  quant::Parameters parameters = format.layout(slot.out_features(), slot.in_features());
  for (quant::Parameter& p : parameters) {
    const std::string name = slot.path() + "." + p.name;
    p.tensor = core::is_codes(p.kind) ? read_codes(weights, name, p.shape[1], p.stored_bits).unpack()
                                      : exact.read(name, p.shape).tensor.clone();
  }
  return parameters;
}

// file: the manifest's.
std::shared_ptr<core::Linear> read_quantized(const core::Slot& slot, const QuantizedModule& module,
                                             const std::shared_ptr<const quant::WeightFormat>& format,
                                             const std::string& file, const core::Weights& weights,
                                             const ReadCodes& codes_at) {
  const core::Codes codes = codes_at(owner_of_codes(slot, module), slot.in_features(), format->code_bits());
  const std::string stored = owner_of_codes(slot, module) + ".codes";
  core::require(codes.hash() == module.code_hash, "{}: the codes of {} are not those that {} records. {}.",
                weights.has(stored) ? weights.source().file_of(stored) : stored, slot.path(), file, kAgain);
  core::LoadedTensor bias{{}, 0};
  if (slot.original() != nullptr) {
    bias.tensor = slot.original()->linear().bias();
  } else if (slot.has_bias()) {
    bias = weights.read(slot.path() + ".bias", {slot.out_features()});
  }
  auto linear = std::make_shared<quant::QuantizedLinear>(format, codes, read_parameters(slot, *format, weights),
                                                         bias.tensor, bias.stored_bits, weights.dtype());
  linear->share_codes(module.codes_of);
  linear->rotate(
      quant::Rotation::make(module.weight.incoherence, slot.out_features(), slot.in_features(), module.seed));
  linear->quantize_input(read_input(slot, module.activation, module.seed, weights));
  return linear;
}

// ---- refrain.json against the model ----

void check_plan(const Manifest& manifest, int64_t layers) {
  const std::string& file = manifest.file;
  core::require(!manifest.plan.empty(), "{}: the plan is empty. {}.", file, kAgain);
  for (size_t i = 0; i < manifest.plan.size(); ++i) {
    const core::Step& step = manifest.plan[i];
    core::require(step.block >= 0 && step.block < layers, "{}: plan[{}].block is {}, but the model has {} blocks. {}.",
                  file, i, step.block, layers, kAgain);
    core::require(step.kv >= core::Step::kOwn && step.kv < static_cast<int64_t>(i),
                  "{}: plan[{}].kv is {}. It must be \"own\" or an earlier step.", file, i, step.kv);
    const core::Step& keys = manifest.plan[step.kv == core::Step::kOwn ? i : static_cast<size_t>(step.kv)];
    core::require(keys.block == step.block && (step.kv == core::Step::kOwn || keys.only != core::Half::feed_forward),
                  "{}: plan[{}] attends to keys of step {}, which has none of this block. {}.", file, i, step.kv,
                  kAgain);
    core::require(
        step.replica >= 0 && step.replica <= kMostReplicas && step.parallel >= 1 && step.parallel <= kMostReplicas,
        "{}: plan[{}] runs {} replicas from replica {} on, which none of ours does. {}.", file, i, step.parallel,
        step.replica, kAgain);
  }
}

const QuantizedModule* find(const Manifest& manifest, const core::Slot* slot) {
  if (slot == nullptr) return nullptr;
  const auto found = manifest.modules.find(slot->path());
  return found == manifest.modules.end() ? nullptr : &found->second;
}

void check_modules(core::Model& model, const Manifest& manifest) {
  std::set<std::string> paths;
  for (const core::Slot* slot : model.slots()) paths.insert(slot->path());
  for (const auto& [path, input] : manifest.inputs) {
    core::require(paths.contains(path), "{}: inputs.{} is not a linear of this model's blocks. {}.", manifest.file,
                  path, kAgain);
  }
  paths.insert({model.embedding().path(), model.head().path()});
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (core::Block* replica : model.replicas(i)) {
      for (const core::Slot* slot : replica->slots()) paths.insert(slot->path());
    }
  }
  for (const auto& [path, module] : manifest.modules) {
    core::require(paths.contains(path), "{}: modules.{} is not a linear of this model. {}.", manifest.file, path,
                  kAgain);
    const auto owner = manifest.modules.find(module.codes_of);
    core::require(module.codes_of.empty() || (owner != manifest.modules.end() && owner->second.codes_of.empty()),
                  "{}: modules.{}.codes_of is `{}`, which stores no codes. {}.", manifest.file, path, module.codes_of,
                  kAgain);
  }
}

// A tied pair is stored once. A head beside the embedding, if they were not untied, was never the embedding, whatever
// config.json says.
void untie_what_differs(core::Model& model, const Manifest& manifest, const core::Weights& weights) {
  const std::string& head = model.head().path();
  if (!manifest.untied && (manifest.modules.contains(head) || weights.has(head + ".weight"))) model.untie();
}

void check_tensors(core::Model& model, const Manifest& manifest, const core::Weights& weights) {
  std::set<const torch::nn::Module*> unused;  // of blocks that no step runs: they are not stored
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (core::runs(manifest.plan, i)) continue;
    for (const auto& module : model.block(i).modules()) unused.insert(module.get());
  }
  for (const auto& module : model.modules(/*include_self=*/false)) {
    if (unused.contains(module.get())) continue;
    auto* loadable = dynamic_cast<core::Loadable*>(module.get());
    const auto* slot = dynamic_cast<core::Slot*>(loadable);
    if (const QuantizedModule* entry = find(manifest, slot)) {
      check_quantized(*slot, *entry, manifest, weights);
    } else if (loadable != nullptr && !(slot == &model.head() && model.shape().tied && !manifest.untied)) {
      loadable->check(weights);
    }
    if (slot == nullptr) continue;
    if (const auto input = manifest.inputs.find(slot->path()); input != manifest.inputs.end())
      check_input(*slot, input->second.activation, weights);
  }
}

void fill(core::Slot& slot, const Manifest& manifest, const core::Weights& weights, const ReadCodes& codes_at) {
  if (const QuantizedModule* entry = find(manifest, &slot)) {
    const auto format = format_of(slot, *entry, manifest);
    return slot.put(weights, [&slot, module = *entry, format, file = manifest.file, weights, codes_at] {
      return read_quantized(slot, module, format, file, weights, codes_at);
    });
  }
  slot.load(weights);
  if (const auto input = manifest.inputs.find(slot.path()); input != manifest.inputs.end()) {
    slot.put(std::make_shared<quant::InputQuantizedLinear>(
        slot.pointer(), read_input(slot, input->second.activation, input->second.seed, weights)));
  }
}

void fill(core::Block& block, const Manifest& manifest, const core::Weights& weights, const ReadCodes& codes_at) {
  for (const auto& module : block.modules(/*include_self=*/false)) {
    auto* loadable = dynamic_cast<core::Loadable*>(module.get());
    auto* slot = dynamic_cast<core::Slot*>(loadable);
    if (slot != nullptr) {
      fill(*slot, manifest, weights, codes_at);
    } else if (loadable != nullptr) {
      loadable->load(weights);
    }
  }
}

// A block, then what its replicas have of their own. Codes that are in the model already are used where they lie.
// from_file: may be called as long as the block is loaded.
void fill(core::Model& model, int64_t block, const Manifest& manifest, const core::Weights& weights,
          const ReadCodes& from_file) {
  const ReadCodes codes_at = [&model, from_file](const std::string& path, int64_t columns, int64_t bits) {
    for (const core::Slot* slot : model.slots()) {
      if (slot->path() != path || !slot->filled()) continue;
      if (const auto* linear = dynamic_cast<const quant::QuantizedLinear*>(&slot->linear())) return linear->codes();
    }
    return from_file(path, columns, bits);
  };
  fill(model.block(block), manifest, weights, codes_at);
  for (core::Block* replica : model.replicas(block)) fill(*replica, manifest, weights, codes_at);
}

ReadCodes codes_in(const core::Weights& weights) {
  return [weights](const std::string& path, int64_t columns, int64_t bits) {
    return read_codes(weights, path + ".codes", columns, bits);
  };
}

bool is_loaded(core::Block& block) { return block.slots().front()->filled(); }

}  // namespace

void RestoringSource::load(core::Model& model, int64_t block) {
  if (!is_loaded(model.block(block))) fill(model, block, manifest_, weights_, codes_in(weights_));
}

void RestoringSource::release(core::Model& model, int64_t block) {
  if (residency_ == Residency::stream) core::unload_block(model, block);
}

bool UnfinishedSource::finished(int64_t block) const {
  return fs::exists(fs::path(progress_) / description_file(block)) &&
         fs::exists(fs::path(directory_) / shard_file(block));
}

core::Weights UnfinishedSource::shard_of(int64_t block) const {
  const std::string file = (fs::path(directory_) / shard_file(block)).string();
  const core::Weights shard(std::make_shared<core::Checkpoint>(core::Checkpoint::open(file)), weights().dtype(),
                            weights().device());
  return weights().is_streamed() ? shard.streamed() : shard;
}

Manifest UnfinishedSource::description_of(int64_t block) const {
  return read_manifest((fs::path(progress_) / description_file(block)).string());
}

quant::Encoded UnfinishedSource::encoded(core::Model& model, const std::string& path) const {
  const core::Slot& slot = model.slot(path);
  const core::Weights shard = shard_of(slot.block());
  const Manifest manifest = description_of(slot.block());
  const auto format = format_of(slot, manifest.modules.at(path), manifest);
  return {read_codes(shard, path + ".codes", slot.in_features(), format->code_bits()).unpack(),
          read_parameters(slot, *format, shard)};
}

void UnfinishedSource::load_finished(core::Model& model, int64_t block) {
  core::unload_block(model, block);
  const core::Weights shard = shard_of(block);
  const auto codes_at = [this, &model, shard](const std::string& path, int64_t columns, int64_t bits) {
    if (shard.has(path + ".codes")) return read_codes(shard, path + ".codes", columns, bits);
    return read_codes(shard_of(model.slot(path).block()), path + ".codes", columns, bits);
  };
  fill(model, block, description_of(block), shard, codes_at);
}

void load_embedding_and_head(core::Model& model, const std::string& directory, const core::Weights& weights) {
  if (!is_quantized_checkpoint(directory)) return model.load_embedding_and_head(weights);
  const Manifest manifest = manifest_of(directory);
  untie_what_differs(model, manifest, weights);
  fill(model.embedding(), manifest, weights, codes_in(weights));
  model.norm().load(weights);
  if (model.shape().tied && !manifest.untied) return model.head().put(model.embedding().pointer());
  fill(model.head(), manifest, weights, codes_in(weights));
}

bool is_quantized_checkpoint(const std::string& directory) {
  std::error_code ignored;
  if (core::is_file(directory)) return core::Gguf::is_gguf(directory) && core::is_sidecar(core::Gguf::open(directory));
  return fs::exists(fs::path(directory) / kManifestFile, ignored);
}

void check(core::Model& model, const std::string& directory, const core::Weights& weights) {
  if (is_quantized_checkpoint(directory)) {
    const Manifest manifest = manifest_of(directory);
    check_plan(manifest, model.shape().layers);
    model.follow(manifest.plan);
    check_modules(model, manifest);
    untie_what_differs(model, manifest, weights);
    return check_tensors(model, manifest, weights);
  }
  for (const core::Slot* slot : model.slots()) {
    core::require(!weights.has(slot->path() + ".codes"),
                  "{}: the checkpoint is unfinished: it has codes, but no {}. {}.", directory, kManifestFile, kAgain);
  }
  model.check(weights);
}

std::unique_ptr<core::BlockSource> open_source(core::Model& model, const std::string& directory,
                                               const core::Weights& weights, Residency residency) {
  check(model, directory, weights);
  if (!is_quantized_checkpoint(directory)) {
    if (residency == Residency::stream) return std::make_unique<core::StreamedSource>(weights.streamed());
    return std::make_unique<core::ResidentSource>(weights);
  }
  Manifest manifest = manifest_of(directory);
  return std::make_unique<RestoringSource>(weights, std::move(manifest), residency);
}

int64_t bytes_on_disk(const std::string& directory) {
  int64_t bytes = 0;
  for (const std::string& file : core::open_tensors(directory)->files())
    bytes += static_cast<int64_t>(fs::file_size(file));
  return bytes;
}

}  // namespace exports
