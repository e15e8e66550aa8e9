#include "core/io/safetensors.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/io/files.h"
#include "core/io/json_text.h"
#include "core/io/mapped_file.h"
#include "core/io/safetensors_header.h"

namespace core {
namespace {

namespace fs = std::filesystem;

struct DTypeRow {
  DType dtype;
  const char* name;
  size_t bytes;
};

constexpr std::array<DTypeRow, 10> kDTypes = {{{DType::F64, "F64", 8},
                                               {DType::F32, "F32", 4},
                                               {DType::F16, "F16", 2},
                                               {DType::BF16, "BF16", 2},
                                               {DType::I64, "I64", 8},
                                               {DType::I32, "I32", 4},
                                               {DType::I16, "I16", 2},
                                               {DType::I8, "I8", 1},
                                               {DType::U8, "U8", 1},
                                               {DType::BOOL, "BOOL", 1}}};

const DTypeRow* row_of(std::string_view name) {
  const auto found =
      std::find_if(kDTypes.begin(), kDTypes.end(), [&](const DTypeRow& row) { return row.name == name; });
  return found == kDTypes.end() ? nullptr : &*found;
}

std::string known_dtypes() {
  std::vector<std::string> names;
  for (const DTypeRow& row : kDTypes) names.emplace_back(row.name);
  return fmt::format("{}", fmt::join(names, ", "));
}

// The index of a sharded checkpoint: which file each tensor should be in.
std::map<std::string, std::string> read_index(const fs::path& path) {
  const std::string file = path.string();
  const nlohmann::json index = parse_json(read_file(file), {file, "the index", "Download the file again."});
  require(index.is_object() && index.contains("weight_map") && index["weight_map"].is_object(),
          "{}: the index has no weight_map. Download the file again.", file);
  std::map<std::string, std::string> out;
  for (const auto& [name, shard] : index["weight_map"].items()) {
    const bool plain = shard.is_string() && fs::path(shard.get<std::string>()).filename() == shard.get<std::string>();
    require(plain && shard != "" && shard != "." && shard != "..",
            "{}: tensor `{}` is mapped to {}, not to a file beside the index. Download the file again.", file,
            printable(name), printable(shard.dump()));
    out[name] = shard.get<std::string>();
  }
  require(!out.empty(), "{}: the weight_map is empty. Download the file again.", file);
  return out;
}

}  // namespace

size_t size_of(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].bytes; }
const char* name_of(DType dtype) { return kDTypes[static_cast<size_t>(dtype)].name; }

struct Checkpoint::State {
  struct Entry {
    TensorView view;
    std::string dtype;  // as the file says
    size_t file = 0;
  };

  std::string opened;  // what the user named, for messages
  std::vector<std::string> files;
  std::vector<std::unique_ptr<MappedFile>> mappings;
  std::map<std::string, Entry> tensors;
  std::map<std::string, std::string> metadata;
  size_t bytes = 0;

  const Entry& find(const std::string& name) const;
  void add_file(const std::string& path);
  void add_shards(const fs::path& index_path);
};

void Checkpoint::State::add_file(const std::string& path) {
  mappings.push_back(std::make_unique<MappedFile>(path));
  files.push_back(path);
  const std::string_view mapped = mappings.back()->bytes();
  SafetensorsHeader header = parse_safetensors_header(mapped, path);
  metadata.merge(header.metadata);
  for (HeaderEntry& listed : header.tensors) {
    const auto known = tensors.find(listed.name);
    require(known == tensors.end(), "{}: tensor `{}` is also in {}. Remove the file that does not belong here.", path,
            printable(listed.name), known == tensors.end() ? "" : files[known->second.file]);
    Entry entry;
    entry.dtype = std::move(listed.dtype);
    if (const DTypeRow* row = row_of(entry.dtype)) entry.view.dtype = row->dtype;
    entry.view.shape = std::move(listed.shape);
    entry.view.data = reinterpret_cast<const std::byte*>(mapped.data() + header.data_start + listed.begin);
    entry.view.bytes = listed.end - listed.begin;
    entry.file = files.size() - 1;
    bytes += entry.view.bytes;
    tensors.emplace(std::move(listed.name), std::move(entry));
  }
}

void Checkpoint::State::add_shards(const fs::path& index_path) {
  const auto weight_map = read_index(index_path);
  const fs::path folder = index_path.parent_path();
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);
  for (const std::string& shard : shards) {
    std::error_code ignored;
    require(fs::exists(folder / shard, ignored), "{}: the shard {} is missing beside it. Download that file.",
            index_path.string(), printable(shard));
    add_file((folder / shard).string());
  }
  for (const auto& [name, shard] : weight_map) {
    const auto found = tensors.find(name);
    require(found != tensors.end() && files[found->second.file] == (folder / shard).string(),
            "{}: tensor `{}` is not in {}, where the index puts it. Download both files again.", index_path.string(),
            printable(name), printable(shard));
  }
}

const Checkpoint::State::Entry& Checkpoint::State::find(const std::string& name) const {
  const auto found = tensors.find(name);
  if (found != tensors.end()) return found->second;
  std::vector<std::string> names;
  for (const auto& [known, entry] : tensors) names.push_back(printable(known));
  std::string hint = did_you_mean(name, names);
  if (hint.empty()) hint = fmt::format(" Is this the right checkpoint? It holds {} tensors.", names.size());
  fail("{}: there is no tensor `{}`.{}", opened, printable(name), hint);
}

Checkpoint Checkpoint::open(const std::string& directory_or_file) {
  const fs::path path = directory_or_file;
  const fs::path single = path / "model.safetensors", index = path / "model.safetensors.index.json";
  std::error_code ignored;
  auto state = std::make_shared<State>();
  state->opened = directory_or_file;
  if (!fs::is_directory(path, ignored)) {
    require(fs::exists(path, ignored), "{}: no such file or directory. Check the path.", directory_or_file);
    if (path.extension() == ".json")
      state->add_shards(path);
    else
      state->add_file(directory_or_file);
  } else if (fs::exists(single, ignored)) {
    state->add_file(single.string());
  } else if (fs::exists(index, ignored)) {
    state->add_shards(index);
  } else {
    fail(
        "{}: no model.safetensors or model.safetensors.index.json here. Other formats are converted with "
        "save_pretrained of transformers.",
        directory_or_file);
  }
  Checkpoint out;
  out.state_ = std::move(state);
  return out;
}

namespace {

// A tensor of the file, or a part of one.
struct FoundTensor {
  std::string name;  // of the whole
  TensorView view;
};

// Experts may lie in one tensor: experts.gate_up_proj [E, 2F, D], the gate above the up projection, and
// experts.down_proj [E, D, F]. Null: `name`, "….experts.7.up_proj.weight", is not in such a tensor.
std::optional<FoundTensor> in_fused(const Checkpoint& checkpoint, const std::string& name) {
  static const std::string kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  if (at == std::string::npos) return std::nullopt;
  const size_t number = at + kExperts.size(), dot = name.find('.', number);
  if (dot == std::string::npos) return std::nullopt;
  const std::string linear = name.substr(dot + 1);
  const bool down = linear == "down_proj.weight", up = linear == "up_proj.weight";
  if (!down && !up && linear != "gate_proj.weight") return std::nullopt;
  const std::string fused = name.substr(0, number) + (down ? "down_proj" : "gate_up_proj");
  if (!checkpoint.has(fused)) return std::nullopt;
  TensorView part = checkpoint.at(fused);
  const auto expert = std::stoll(name.substr(number, dot - number));
  const int64_t parts = down ? 1 : 2;
  require(part.shape.size() == 3 && expert < part.shape[0] && part.shape[1] % parts == 0,
          "{}: {} is {}, and holds no {}. Use the config.json that belongs to this file.", checkpoint.file_of(fused),
          fused, nlohmann::json(part.shape).dump(), name);
  const auto bytes = static_cast<int64_t>(part.bytes) / part.shape[0] / parts;
  part.data += bytes * (expert * parts + (up ? 1 : 0));
  part.bytes = bytes;
  part.shape = {part.shape[1] / parts, part.shape[2]};
  return FoundTensor{fused, part};
}

}  // namespace

bool Checkpoint::has(const std::string& name) const {
  return state_->tensors.count(name) > 0 || in_fused(*this, name).has_value();
}

StoredTensor Checkpoint::stored(const std::string& name) const {
  const auto part = state_->tensors.count(name) > 0 ? std::nullopt : in_fused(*this, name);
  const TensorView& view = part ? part->view : at(name);
  return {name_of(view.dtype), view.shape, 8.0 * static_cast<double>(size_of(view.dtype)), view, {}};
}

const TensorView& Checkpoint::at(const std::string& name) const {
  const State::Entry& entry = state_->find(name);
  require(row_of(entry.dtype) != nullptr, "{}: tensor `{}` has the element type {}. Types that are read: {}.",
          state_->files[entry.file], printable(name), printable(entry.dtype), known_dtypes());
  return entry.view;
}

std::vector<std::string> Checkpoint::names() const {
  std::vector<std::string> out;
  for (const auto& [name, entry] : state_->tensors) out.push_back(name);
  return out;
}

std::vector<std::string> Checkpoint::files() const { return state_->files; }

const std::string& Checkpoint::file_of(const std::string& name) const {
  const auto part = state_->tensors.count(name) > 0 ? std::nullopt : in_fused(*this, name);
  return state_->files[state_->find(part ? part->name : name).file];
}

const std::map<std::string, std::string>& Checkpoint::metadata() const { return state_->metadata; }
size_t Checkpoint::total_bytes() const { return state_->bytes; }

void Checkpoint::release(const TensorView& view) const { release_pages(view.data, view.bytes); }

}  // namespace core
