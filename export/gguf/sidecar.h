// The writing side of a sidecar (docs/gguf_extension.md): what the model that was measured has beside its base file.
#pragma once

#include <string>
#include <vector>

#include "core/io/gguf_sidecar.h"
#include "core/io/gguf_writer.h"
#include "export/exporter.h"

namespace exports {

class Sidecar {
 public:
  // directory: where tensors wait. in_base: tensors of the base that hold codes of ours; grows while blocks are added,
  // a block's entries before the block.
  Sidecar(const std::string& directory, const core::GgufArchitecture& architecture,
          const std::vector<core::CodesInBase>& in_base)
      : file_(directory), architecture_(architecture), in_base_(in_base) {}

  // Gates and parameters of a block, of its quantized linears codes where the base has none; of a replica what is its
  // own.
  void add(core::Block& block);
  void add(core::Slot& embedding_or_head);

  // To `path`, in the folder of the base; gives it. Errors (UserError): as GgufWriter::write.
  std::string write(const ModelToExport& model, const std::string& base, const std::string& path) const;
  // "model.refrain.gguf" of model.gguf.
  static std::string path_beside(const std::string& base);

  std::vector<WrittenTensor> take() { return std::move(written_); }

 private:
  void add(const std::string& name, const at::Tensor& tensor);
  bool has_codes(const core::Slot& slot) const;  // the base

  core::GgufWriter file_;
  const core::GgufArchitecture& architecture_;
  const std::vector<core::CodesInBase>& in_base_;
  std::vector<WrittenTensor> written_;
};

}  // namespace exports
