// safetensors: the file format of every checkpoint we read and write.
//
// A file is 8 bytes (header length N, little-endian), N bytes of JSON {name: {dtype, shape, data_offsets}}, then the
// tensors' bytes without holes. The reader maps the file, so a tensor costs memory only while it is looked at, and
// turns every rule of the format into a check with its own message (https://github.com/huggingface/safetensors,
// "Format"). Large models come as a directory: model.safetensors, or shards named by model.safetensors.index.json.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/io/tensor_source.h"

namespace core {

// The tensors of one file or of all the shards of a directory. Copies are cheap and share the mapping.
// All errors are UserError and name the file.
class Checkpoint : public TensorSource {
 public:
  // Opens a .safetensors file, an .index.json file, or a directory that holds model.safetensors or its index.
  // Checks the whole structure; reads no tensor.
  static Checkpoint open(const std::string& directory_or_file);

  // An expert's tensor that is part of a tensor of all experts counts as one of its own (`stored`, not `at`).
  bool has(const std::string& name) const override;
  StoredTensor stored(const std::string& name) const override;
  const std::string& file_of(const std::string& name) const override;

  // The tensor that the file lists under this name. Errors as of `stored`.
  const TensorView& at(const std::string& name) const;

  std::vector<std::string> names() const override;
  std::vector<std::string> files() const override;

  // `__metadata__` of all shards; where two differ, the first file (by name) wins.
  const std::map<std::string, std::string>& metadata() const;

  // Bytes of all tensors.
  size_t total_bytes() const;

  void release(const TensorView& view) const override;

 private:
  Checkpoint() = default;

  struct State;
  std::shared_ptr<const State> state_;
};

// One tensor to be written; `data` holds size_of(dtype) * product of the shape bytes, row-major.
struct TensorToWrite {
  std::string name;
  DType dtype = DType::F32;
  std::vector<int64_t> shape;
  const void* data = nullptr;
};

// Writes a file atomically (a temporary name, then a rename). The same tensors and metadata give the same bytes
// whatever their order in the list. The data begins at a multiple of 64 bytes, so does every tensor whose size is a
// multiple of 64, and every other tensor at a multiple of its element size.
void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace core
