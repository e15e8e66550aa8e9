// The tensors of a model on their way into a GGUF file: which type holds each exactly, and, where none does and that is
// allowed, the nearest in the type that is wanted.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/io/gguf_names.h"
#include "core/io/gguf_writer.h"
#include "export/exporter.h"
#include "export/gguf/coded_rows.h"

namespace exports {

struct GgufTypes {
  const core::GgmlType* wanted = nullptr;     // of quantized linears; null: the smallest that holds a tensor exactly
  bool allow_refit = false;                   // round to the type where it does not
  const core::GgmlType* embedding = nullptr;  // also of the head; null: as it was measured
  bool one_map = false;  // codes of a tensor follow from ours by one rule wherever that is possible
};

// A block as the file has it: under another number, with factors on what its halves add (0: such a half is not run).
struct WrittenBlock {
  std::string path;  // in the model: "model.layers.3.replica1"
  int64_t number;
  double attention = 1, feed_forward = 1;
};

// Types that can hold rows of `columns` codes of `bits` bits, smallest first; `wanted` alone, if it is given.
std::vector<const core::GgmlType*> candidate_types(const GgufTypes& types, int64_t bits, int64_t columns);

class GgufTensorWriter {
 public:
  GgufTensorWriter(core::GgufWriter& writer, const core::GgufArchitecture& architecture, int64_t head_width,
                   GgufTypes types);

  // Source of tensors that may be copied as they lie in a GGUF file: of a model in full precision.
  void copy_from(const core::TensorSource& source) { source_ = &source; }

  // Everything in a block, an embedding, a norm. Errors: a weight that no type holds, by name, with what would.
  void write(core::Block& block, const WrittenBlock& as);
  void write(core::Embedding& embedding);
  void write(core::Slot& head);
  void write(core::Loadable& norm);
  void write_floats(const std::string& name, const std::vector<float>& values);

  std::vector<WrittenTensor> take() { return std::move(written_); }
  // Tensors whose codes follow from ours by one rule.
  const std::vector<core::CodesInBase>& codes_in_base() const { return codes_in_base_; }

 private:
  // One tensor of the file: a linear, or the linears of all experts.
  struct Stack {
    core::GgufPlace place;
    std::vector<core::Slot*> slots;
  };
  struct Encoded {
    const core::GgmlType* type;
    std::vector<std::vector<std::byte>> parts;  // of each slot
    double error = 0;
    std::optional<core::CodesInBase> codes = {};
  };

  void write(const Stack& stack, const core::GgmlType* dense, double factor = 1);
  std::optional<Encoded> in_type(const core::GgmlType& type, const std::vector<CodedRows>& rows,
                                 std::optional<core::CodeMap> map) const;
  std::optional<Encoded> copied(const Stack& stack) const;
  Encoded coded(const Stack& stack, const std::vector<std::shared_ptr<core::Linear>>& linears) const;
  Encoded refitted(const Stack& stack, const std::vector<std::shared_ptr<core::Linear>>& linears) const;
  Encoded rounded(const std::vector<std::shared_ptr<core::Linear>>& linears, const core::GgmlType* type) const;
  void write_vector(const std::string& name, const at::Tensor& values);
  core::GgufPlace place_of(const std::string& name) const;  // of a block under the number that it is written as

  core::GgufWriter& writer_;
  const core::GgufArchitecture& architecture_;
  int64_t head_width_;
  GgufTypes types_;
  const core::TensorSource* source_ = nullptr;
  std::vector<WrittenTensor> written_;
  std::vector<core::CodesInBase> codes_in_base_;
  std::string block_, written_as_;  // "model.layers.3.replica1." and "model.layers.7."
};

}  // namespace exports
