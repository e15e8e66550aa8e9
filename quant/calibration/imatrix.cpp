#include "quant/calibration/imatrix.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "core/io/gguf_architecture.h"
#include "core/io/gguf_names.h"
#include "core/warn_once.h"

namespace quant {

ImportanceMatrix::ImportanceMatrix(const std::string& file) : file_(core::Gguf::open(file)) {
  core::require(
      file_.text("general.type", "") == "imatrix",
      "{}: this is no importance matrix (general.type: imatrix). Make one: ./export_model MODEL --imatrix FILE "
      "--set imatrix.corpus=TEXT",
      file);
}

at::Tensor ImportanceMatrix::floats(const std::string& name, int64_t columns) const {
  const core::GgufTensor* tensor = file_.find(name);
  core::require(tensor != nullptr, "{}: there is no tensor {}. Give the importance matrix of this model.",
                file_.where(), name);
  const int64_t rows = static_cast<int64_t>(tensor->bytes / sizeof(float)) / std::max<int64_t>(columns, 1);
  core::require(tensor->type->name == std::string_view("F32") && tensor->row_length() == columns && rows > 0,
                "{}: {} has rows of {} {}, not of {} F32. Give the importance matrix of this model.", file_.where(),
                name, tensor->row_length(), tensor->type->name, columns);
  at::Tensor out = at::empty({rows, columns});
  tensor->type->decode(tensor->data, rows * columns, out.mutable_data_ptr<float>());
  core::require((at::isfinite(out).all() & (out >= 0).all()).item<bool>(),
                "{}: {} has a number that no sum of squares is. Make it again.", file_.where(), name);
  return out;
}

at::Tensor ImportanceMatrix::mean_square(const std::string& family, const core::Slot& slot) const {
  const core::GgufArchitecture* architecture = core::find_architecture(family);
  core::require(architecture != nullptr, "{}: importance matrices know no {}. Leave calibration.imatrix out.",
                file_.where(), family);
  const auto place = core::gguf_place(*architecture, slot.path() + ".weight");
  core::require(place.has_value(), "{}: {} has no tensor in GGUF files. Leave calibration.imatrix out.", file_.where(),
                slot.path());
  const at::Tensor sums = floats(place->tensor + ".in_sum2", slot.in_features());
  const at::Tensor counts = floats(place->tensor + ".counts", 1);
  const int64_t matrix = std::max<int64_t>(place->expert, 0);
  core::require(counts.size(0) == sums.size(0) && matrix < sums.size(0),
                "{}: {} has {} matrices and {} counts, and {} is number {}. Give the importance matrix of this model.",
                file_.where(), place->tensor, sums.size(0), counts.size(0), slot.path(), matrix);
  if (counts[matrix].item<float>() > 0) return (sums[matrix] / counts[matrix]).contiguous();
  const at::Tensor reached = (counts > 0).squeeze(1).nonzero().squeeze(1);
  core::require(reached.numel() > 0, "{}: {} was shown no token. Make it again on a longer text.", file_.where(),
                place->tensor);
  core::warn_once(file_.where() + ": some experts saw no token, and have the mean of the others");
  return (sums.index_select(0, reached) / counts.index_select(0, reached)).mean(0);
}

}  // namespace quant
