// Writing GGUF files. The header, which stands first, holds types and places of all tensors; their bytes therefore wait
// in a file without a name until all are known.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "core/io/ggml_types.h"
#include "core/io/spill_file.h"

namespace core {

// The value of a key, with the type that the file gives it.
using GgufData = std::variant<bool, uint16_t, uint32_t, int32_t, float, std::string, std::vector<int32_t>,
                              std::vector<float>, std::vector<std::string>>;
using GgufKeyValues = std::vector<std::pair<std::string, GgufData>>;  // in the order of the file

class GgufWriter {
 public:
  // directory: where tensors wait; best on the disk of the file to be.
  explicit GgufWriter(const std::string& directory) : waiting_(directory) {}

  // A tensor, whose rows follow by `append`. shape: outermost axis first.
  void add(const std::string& name, const GgmlType& type, std::vector<int64_t> shape);
  void append(std::span<const std::byte> rows);  // of the tensor that was added last

  int64_t bytes() const;  // of all tensors

  // Writes `path`, or, if the tensors have more bytes than `most`, parts of about as many: model.gguf becomes
  // model-00001-of-00003.gguf, … (llama.cpp, tools/gguf-split); the first holds the keys. Returns the files. None
  // appears under its name before all are complete. Errors (UserError): a place that cannot be written, a full disk.
  std::vector<std::string> write(const std::string& path, const GgufKeyValues& keys, int64_t most) const;

 private:
  struct Tensor {
    std::string name;
    const GgmlType* type;
    std::vector<int64_t> shape;
    std::vector<std::pair<int64_t, size_t>> pieces;  // place in `waiting_`, bytes
    size_t bytes = 0;
  };
  using Part = std::span<const Tensor>;

  std::vector<Part> parts(int64_t most) const;
  void write_part(class AtomicFile& file, const GgufKeyValues& keys, Part part) const;

  SpillFile waiting_;
  std::vector<Tensor> tensors_;
};

}  // namespace core
