// The tensors of a model's files under their Hugging Face names, whatever the format of the files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/io/ggml_types.h"

namespace core {

// The element types that tensors have once they are looked at. A file may hold others; they are refused by name when
// such a tensor is used, or decoded.
enum class DType { F64, F32, F16, BF16, I64, I32, I16, I8, U8, BOOL };

// Bytes of one element.
size_t size_of(DType dtype);

// The name in a safetensors file: "F32", "BF16", ...
const char* name_of(DType dtype);

// A tensor where it lies in a mapped file: row-major, little-endian. `data` may be unaligned for its type (safetensors
// does not promise alignment), is read-only (a write is a crash), and lives as long as its source.
struct TensorView {
  DType dtype = DType::F32;
  std::vector<int64_t> shape;  // [] is a scalar; a 0 in it means no bytes
  const std::byte* data = nullptr;
  size_t bytes = 0;  // = size_of(dtype) * product of the shape
};

// The codes of a quantized tensor as its file has them.
struct StoredCodes {
  GgmlGrid grid;
  int64_t block;  // weights of a block
  // Takes the blocks of one row apart, row length / block of them. May be called from several threads.
  std::function<void(int64_t row, GgmlBlock* to)> row;
};

// What a source knows of a tensor. Either `view` or `decode` is there.
struct StoredTensor {
  std::string type;  // of its elements, as the file calls it: "BF16", "Q4_1"
  std::vector<int64_t> shape;
  double bits = 0;                 // per element in the file
  std::optional<TensorView> view;  // where it lies, if it can be used as it lies there
  // Writes the rows first … first + count - 1 (of all rows along the last axis) to `to`. May be called from several
  // threads.
  std::function<void(int64_t first, int64_t count, float* to)> decode;
  std::optional<StoredCodes> codes = {};  // where it is made of codes whose rows are those of the tensor
};

// All errors are UserError and name the file.
class TensorSource {
 public:
  virtual ~TensorSource() = default;

  virtual bool has(const std::string& name) const = 0;
  // The tensor of this name. Missing: an error with the nearest name. An element type that we do not read: an error.
  virtual StoredTensor stored(const std::string& name) const = 0;
  // All names, sorted.
  virtual std::vector<std::string> names() const = 0;
  // The files behind it, sorted; for hashing.
  virtual std::vector<std::string> files() const = 0;
  // The file that holds a tensor; the tensor must exist.
  virtual const std::string& file_of(const std::string& name) const = 0;
  // Gives the pages of a tensor, or of a part of one, back to the system. The data stays valid and is read again when
  // touched.
  virtual void release(const TensorView& view) const = 0;
};

}  // namespace core
