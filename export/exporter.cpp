#include "export/exporter.h"

#include <ATen/ATen.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <filesystem>

#include "core/error.h"
#include "core/io/csv.h"
#include "core/io/files.h"
#include "core/io/model_path.h"
#include "core/nn/prefix.h"
#include "core/text/load_tokenizer.h"
#include "export/checkpoint.h"
#include "models/registry.h"

// One line per exporter: X(name) stands for exporters/name.cpp, which defines make_name().
#define EXPORTERS(X) X(gguf) X(huggingface) X(imatrix)

namespace exports {

#define DECLARE(name) core::Polymorphic<Exporter> make_##name();
EXPORTERS(DECLARE)
#undef DECLARE

namespace fs = std::filesystem;

Exporters make_exporters() {
#define ENTRY(name) {#name, make_##name()},
  return {EXPORTERS(ENTRY)};
#undef ENTRY
}

void ExportConfig::keys(core::Keys& k) {
  for (auto& [name, exporter] : exporters) k.section(name, *exporter, exporter->summary()).only_if_given();
}

std::vector<std::pair<std::string, const Exporter*>> ExportConfig::asked() const {
  std::vector<std::pair<std::string, const Exporter*>> all;
  for (const auto& [name, exporter] : exporters) {
    if (given(name)) all.emplace_back(name, &*exporter);
  }
  return all;
}

namespace {

bool has_prefix(core::Model& model, const core::Weights& weights) {
  for (const core::Slot* slot : model.slots()) {
    const std::string path = slot->path().substr(0, slot->path().rfind('.'));
    if (weights.has(core::Prefix::keys_of(path))) return true;
  }
  return false;
}

}  // namespace

ModelToExport open_to_export(const std::string& given) {
  const std::string checkpoint = given + "/checkpoint";
  const std::string path = is_quantized_checkpoint(checkpoint) ? checkpoint : core::find_model(given);
  const core::JsonObject config = core::read_model_config(path);
  auto model = models::build(config);
  core::Weights weights = core::Weights(core::open_tensors(path), at::kFloat, at::kCPU).streamed();
  check(*model, path, weights);
  Manifest manifest;
  if (is_quantized_checkpoint(path)) manifest = manifest_of(path);
  if (manifest.plan.empty()) manifest.plan = model->plan();
  if (manifest.model.empty()) manifest.model = fs::path(path).stem().string();
  const bool prefixed = has_prefix(*model, weights);
  return {path,    config, core::load_tokenizer(path), std::move(weights), std::move(model), std::move(manifest),
          prefixed};
}

std::string refusal(const std::string& name, const Exporter& exporter, const ModelToExport& model) {
  const std::vector<std::string> reasons = exporter.reasons(model);
  if (reasons.empty()) return {};
  return fmt::format("{}: it cannot be written as {}: {}.", model.path, name, fmt::join(reasons, "; "));
}

namespace {

struct Total {
  int64_t tensors = 0, weights = 0, bytes = 0;
  double error = 0;  // the largest
};

void say(const std::string& name, const Written& written, int64_t bytes) {
  std::map<std::string, Total> types;
  int64_t weights = 0;
  Total beside;
  for (const WrittenTensor& tensor : written.tensors) {
    Total& total = tensor.weights > 0 ? types[tensor.type] : beside;
    ++total.tensors;
    total.weights += tensor.weights;
    total.bytes += tensor.bytes;
    total.error = std::max(total.error, tensor.error);
    weights += tensor.weights;
  }
  for (const auto& [type, total] : types) {
    const std::string error =
        total.error == 0 ? "exact" : fmt::format("relative error up to {:.2g}", std::sqrt(total.error));
    spdlog::info("{}: {} tensors of {}, {:.4f} bits per weight, {}", name, total.tensors, type,
                 8.0 * static_cast<double>(total.bytes) / static_cast<double>(total.weights), error);
  }
  if (beside.tensors > 0) {
    spdlog::info("{}: beside them {} tensors, {:.1f} MB, with which the model is the one that was measured", name,
                 beside.tensors, 1e-6 * static_cast<double>(beside.bytes));
  }
  const std::string where = written.files.size() > 8 ? fs::path(written.files[0]).parent_path().string()
                                                     : fmt::format("{}", fmt::join(written.files, ", "));
  spdlog::info("{}: {} ({:.1f} MB, {:.4f} bits per weight, all in all)", name, where, 1e-6 * static_cast<double>(bytes),
               8.0 * static_cast<double>(bytes) / static_cast<double>(weights));
}

}  // namespace

std::string table_beside(const std::string& path) { return fs::path(path).replace_extension(".tensors.csv").string(); }

Written exported(const std::string& name, const Exporter& exporter, const ModelToExport& model,
                 const std::string& path) {
  if (const std::string reasons = refusal(name, exporter, model); !reasons.empty()) core::fail("{}", reasons);
  Written written = exporter.write(model, path);
  int64_t bytes = 0;
  for (const std::string& file : written.files) bytes += static_cast<int64_t>(fs::file_size(file));
  core::CsvTable table({"tensor", "type", "weights", "bytes", "bits_per_weight", "relative_error"});
  for (const WrittenTensor& tensor : written.tensors) {
    const double bits =
        8.0 * static_cast<double>(tensor.bytes) / static_cast<double>(std::max<int64_t>(tensor.weights, 1));
    table.row(tensor.name, tensor.type, tensor.weights, tensor.bytes, tensor.weights > 0 ? bits : 0.0,
              std::sqrt(tensor.error));
  }
  core::write_atomically(table_beside(path), table.text());
  say(name, written, bytes);
  return written;
}

}  // namespace exports
