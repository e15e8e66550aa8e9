// What leaves Refrain: a model written in a format that other programs read, equal to the model that was measured, or
// refused. An exporter is one file in export/exporters/ and one line in exporter.cpp.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/config/polymorphic.h"
#include "core/io/hf_config.h"
#include "core/model.h"
#include "core/text/tokenizer.h"
#include "export/manifest.h"

namespace exports {

// The model of a folder, of a GGUF file or of a checkpoint of ours, before its tensors are read.
struct ModelToExport {
  std::string path;
  core::JsonObject config;
  std::shared_ptr<const core::Tokenizer> tokenizer;
  core::Weights weights;               // float32, streamed
  std::shared_ptr<core::Model> model;  // a skeleton that follows the plan
  Manifest manifest;                   // what is quantized and how; of a model in full precision nothing
  bool has_prefix;                     // keys and values stand in front of every text
};

// path: found like model.path; of a run directory, the checkpoint in it.
ModelToExport open_to_export(const std::string& path);

struct WrittenTensor {
  std::string name, type;
  int64_t weights, bytes;  // weights: 0 of what stands beside them
  double error;            // Σ (ŵ − w)² / Σ w², all in all of what was measured; 0: exact
};

struct Written {
  std::vector<std::string> files;
  std::vector<WrittenTensor> tensors;
};

class Exporter : public core::Section {
 public:
  virtual std::string summary() const = 0;
  // Where to, if the configuration says so; empty: `write` is told.
  virtual std::string path() const = 0;
  // Why the model cannot be written so, a line each: what can be known without its tensors.
  virtual std::vector<std::string> reasons(const ModelToExport& model) const = 0;
  // Writes to `path`. Nothing appears under a name of its own before it is whole. Errors (UserError): what only the
  // tensors show, a place that cannot be written, a full disk.
  virtual Written write(const ModelToExport& model, const std::string& path) const = 0;
  // The name of what is written into a run directory.
  virtual std::string default_name() const = 0;
};

using Exporters = std::map<std::string, core::Polymorphic<Exporter>>;
Exporters make_exporters();

// The section `exports` of a configuration: a section per exporter, of which those that are given are used.
struct ExportConfig : core::Section {
  Exporters exporters = make_exporters();

  void keys(core::Keys& k) override;
  std::vector<std::pair<std::string, const Exporter*>> asked() const;
};

// Refuses with the exporter's reasons, or writes; then says what was written: a line per type, and a table of all
// tensors beside the file. name: of the exporter.
Written exported(const std::string& name, const Exporter& exporter, const ModelToExport& model,
                 const std::string& path);

// That table, which is written last: "model.tensors.csv" of model.gguf.
std::string table_beside(const std::string& path);

// One line with all reasons; empty: there are none.
std::string refusal(const std::string& name, const Exporter& exporter, const ModelToExport& model);

}  // namespace exports
