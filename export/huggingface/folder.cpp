#include "export/huggingface/folder.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/files.h"
#include "export/stored_tensor.h"

namespace exports {

namespace fs = std::filesystem;

Folder::Folder(std::string path) : path_(std::move(path)), temporary_(path_ + ".part") {
  core::require(!fs::exists(path_), "{}: it is there already. Remove it, or choose another place.", path_);
  fs::remove_all(temporary_);
  core::require_writable_directory(temporary_);
}

Folder::~Folder() {
  std::error_code ignored;
  if (!committed_) fs::remove_all(temporary_, ignored);
}

void Folder::add(const std::string& name, const at::Tensor& tensor) {
  kept_.push_back(tensor.detach().cpu().contiguous());
  shard_.push_back({name, dtype_of(tensor), tensor.sizes().vec(), kept_.back().const_data_ptr()});
  bytes_ += static_cast<int64_t>(kept_.back().nbytes());
}

void Folder::end_shard() {
  if (shard_.empty()) return;
  const std::string file = fmt::format("model-{:05}.safetensors", ++shards_);
  core::write_safetensors(temporary_ + "/" + file, shard_, {{"format", "pt"}});
  for (const core::TensorToWrite& tensor : shard_) files_[tensor.name] = file;
  shard_.clear();
  kept_.clear();
}

void Folder::put(const std::string& file, const std::string& content) {
  core::write_atomically(temporary_ + "/" + file, content);
}

std::vector<std::string> Folder::commit() {
  end_shard();
  const nlohmann::ordered_json index{{"metadata", {{"total_size", bytes_}}}, {"weight_map", files_}};
  put("model.safetensors.index.json", index.dump(2) + "\n");
  std::error_code error;
  fs::rename(temporary_, path_, error);
  if (error) core::cannot_write(path_, error.value());
  committed_ = true;
  std::vector<std::string> files;
  for (const auto& entry : fs::directory_iterator(path_)) files.push_back(entry.path().string());
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace exports
