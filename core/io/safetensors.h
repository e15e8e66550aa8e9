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
#include <string_view>
#include <vector>

namespace core {

// The element types that we read. A file may hold others; they are refused by name when such a tensor is used.
enum class DType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

// Bytes of one element.
size_t size_of(DType dtype);

// The name in the file: "F32", "BF16", ...
const char* name_of(DType dtype);

// A tensor where it lies in the mapped file: row-major, little-endian. `data` may be unaligned for its type (the format
// does not promise alignment), is read-only (a write is a crash), and lives as long as any copy of its Checkpoint.
struct TensorView {
  DType dtype = DType::F32;
  std::vector<int64_t> shape;  // [] is a scalar; a 0 in it means no bytes
  const std::byte* data = nullptr;
  size_t bytes = 0;  // = size_of(dtype) * product of the shape
};

// The tensors of one file or of all the shards of a directory. Copies are cheap and share the mapping.
// All errors are UserError and name the file.
class Checkpoint {
 public:
  // Opens a .safetensors file, an .index.json file, or a directory that holds model.safetensors or its index.
  // Checks the whole structure; reads no tensor.
  static Checkpoint open(const std::string& directory_or_file);

  bool has(const std::string& name) const;

  // The tensor of this name. Missing: an error with the nearest name. An element type that we do not read: an error.
  const TensorView& at(const std::string& name) const;

  // All names, sorted.
  std::vector<std::string> names() const;

  // The safetensors files behind this checkpoint, sorted; for hashing.
  std::vector<std::string> files() const;

  // The file that holds a tensor; the tensor must exist.
  const std::string& file_of(const std::string& name) const;

  // `__metadata__` of all shards; where two differ, the first file (by name) wins.
  const std::map<std::string, std::string>& metadata() const;

  // Bytes of all tensors.
  size_t total_bytes() const;

  // Gives the pages of a tensor, or of a part of one, back to the system (MADV_DONTNEED). The data stays valid and is
  // read again when touched.
  void release(const TensorView& view) const;

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
