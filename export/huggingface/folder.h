// A Hugging Face folder that is written shard by shard under another name, and gets its own when it is whole.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

#include "core/io/safetensors.h"

namespace exports {

class Folder {
 public:
  // path: must not exist. The parent is made if needed.
  explicit Folder(std::string path);
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;

  void add(const std::string& name, const at::Tensor& tensor);  // to the shard
  void end_shard();
  void put(const std::string& file, const std::string& content);
  // Writes the index, and gives the folder its name. Returns its files.
  std::vector<std::string> commit();

 private:
  std::string path_, temporary_;
  std::vector<at::Tensor> kept_;
  std::vector<core::TensorToWrite> shard_;
  std::map<std::string, std::string> files_;  // tensor -> shard
  int64_t shards_ = 0, bytes_ = 0;
  bool committed_ = false;
};

}  // namespace exports
