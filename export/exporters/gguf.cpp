// GGUF, the files of llama.cpp: every quantized linear in the smallest element type that holds its codes, scales and
// zero points exactly, so that stock llama.cpp computes with the very weights that were measured
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; names and keys as by llama.cpp's converter). What stock
// llama.cpp cannot compute, replicas, stands in a sidecar, beside a file as near as its types come; blocks that run
// several times may also be written out, as often as they run.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/io/files.h"
#include "core/plan_stream.h"
#include "core/text/gguf_tokenizer_keys.h"
#include "export/checkpoint.h"
#include "export/exporter.h"
#include "export/gguf/coded_rows.h"
#include "export/gguf/model_keys.h"
#include "export/gguf/sidecar.h"
#include "export/gguf/tensors.h"
#include "quant/grids/make_format.h"
#include "replication/config.h"

namespace exports {

namespace {

namespace fs = std::filesystem;

// general.file_type, llama.cpp's name for the type of most weights (llama.h, llama_ftype); 1024: guessed.
uint32_t file_type(const std::vector<WrittenTensor>& tensors) {
  std::map<std::string, int64_t> weights;
  for (const WrittenTensor& tensor : tensors) {
    if (tensor.name.starts_with("blk.")) weights[tensor.type] += tensor.weights;
  }
  const auto most = std::max_element(weights.begin(), weights.end(),
                                     [](const auto& a, const auto& b) { return a.second < b.second; });
  static const std::map<std::string, uint32_t> numbers{
      {"F32", 0},   {"F16", 1},   {"Q4_0", 2},  {"Q4_1", 3},  {"Q8_0", 7},  {"Q5_0", 8},   {"Q5_1", 9}, {"Q2_K", 10},
      {"Q3_K", 12}, {"Q4_K", 15}, {"Q5_K", 17}, {"Q6_K", 18}, {"BF16", 32}, {"TQ2_0", 37}, {"Q2_0", 41}};
  const auto found = most == weights.end() ? numbers.end() : numbers.find(most->first);
  return found == numbers.end() ? 1024 : found->second;
}

// Whether a linear has one weight, of one grid: it is not replicated, or what it has become is one.
bool is_grid(const QuantizedModule& module) {
  if (module.replication.is_null()) return true;
  replication::ReplicationConfig config;
  core::bind(module.replication, config, "replication");
  return config.collapses();
}

// Whether stock llama.cpp cannot compute the model: blocks run again, or codes are decoded several ways.
bool has_replicas(const ModelToExport& model) {
  if (model.manifest.plan != core::default_plan(model.model->shape().layers)) return true;
  return std::any_of(model.manifest.modules.begin(), model.manifest.modules.end(),
                     [](const auto& entry) { return !is_grid(entry.second); });
}

double value_of(const core::Gate& gate) { return gate.value().defined() ? gate.value().item<double>() : 1; }

const core::GgmlType* type_named(const std::string& name) {
  return name == "auto" ? nullptr : core::find_ggml_type(name);
}

std::vector<std::string> with_auto(std::vector<std::string> names, std::initializer_list<const char*> floats = {}) {
  names.insert(names.begin(), floats.begin(), floats.end());
  names.insert(names.begin(), "auto");
  return names;
}

struct Gguf : Exporter {
  std::string to = "auto";
  std::string type = "auto";
  bool allow_refit = false;
  std::string embedding = "auto";
  bool sidecar = true;
  std::string blocks = "once";
  double split_above = 48;

  std::string summary() const override { return "a GGUF file, which llama.cpp runs"; }

  void keys(core::Keys& k) override {
    k.key("path", to, "the file; auto: model.gguf in the run directory").not_identity();
    k.key(
         "type", type,
         "element type of quantized linears; auto: of each the smallest that holds it exactly, so that the file is the "
         "measured model",
         with_auto(quant::presets()))
        .not_identity();
    k.key("allow_refit", allow_refit,
          "round weights to the nearest in the type (auto: the smallest with as many bits, scales included) where none "
          "holds them; the "
          "error is stated")
        .not_identity();
    k.key("embedding", embedding,
          "element type of embedding and head, rounded to the nearest; auto: the smallest that holds what was measured",
          with_auto(quant::presets(), {"f32", "f16", "bf16"}))
        .not_identity();
    k.key("sidecar", sidecar,
          "write what stock llama.cpp cannot compute, replicas, into a second file beside the first, which is then as "
          "near as a type comes; false: such a model is refused")
        .not_identity();
    k.key(
         "blocks", blocks,
         "blocks that run several times; once: their replicas stand in the sidecar; written_out: as often as they run, "
         "with gates folded into the scales of o_proj and down_proj",
         {"once", "written_out"})
        .not_identity();
    k.key("split_above", split_above, "GB (10^9 bytes) of tensors in a file, of which there are then several",
          {1e-6, 1e6})
        .not_identity();
  }

  std::string path() const override { return to == "auto" ? "" : to; }
  std::string default_name() const override { return "model.gguf"; }

  std::vector<std::string> reasons(const ModelToExport& model) const override {
    const std::string family = model.model->shape().family;
    const core::GgufArchitecture* architecture = core::find_architecture(family);
    if (architecture == nullptr) return {fmt::format("llama.cpp's architectures have no {} that we write", family)};
    std::vector<std::string> reasons = not_in_llama_cpp(*architecture, model.config, *model.model, blocks_of(model));
    if (model.has_prefix) reasons.emplace_back("runtime.prefix needs keys and values that no GGUF file holds");
    if (needs_sidecar(model) && embedding != "auto")
      reasons.push_back(fmt::format("{} rounds what the sidecar does not hold; leave it auto", where("embedding")));
    add_reasons_of_plan(model, reasons);
    add_reasons_of_linears(model, reasons);
    try {
      core::gguf_tokenizer_keys(core::read_model_texts(model.path), *model.tokenizer, model.model->shape().vocabulary);
    } catch (const core::UserError& error) {
      reasons.emplace_back(error.what());
    }
    return reasons;
  }

  Written write(const ModelToExport& model, const std::string& path) const override {
    const core::GgufArchitecture& architecture = *core::find_architecture(model.model->shape().family);
    core::Model& skeleton = *model.model;
    const fs::path folder = fs::path(path).parent_path();
    if (!folder.empty()) core::require_writable_directory(folder.string());
    core::GgufKeyValues keys{{"general.architecture", architecture.name},
                             {"general.type", "model"},
                             {"general.name", model.manifest.model},
                             {"general.quantization_version", uint32_t{2}}};
    for (auto& key : model_keys(architecture, model.config, skeleton, blocks_of(model))) keys.push_back(std::move(key));
    for (auto& key :
         core::gguf_tokenizer_keys(core::read_model_texts(model.path), *model.tokenizer, skeleton.shape().vocabulary))
      keys.push_back(std::move(key));
    core::GgufWriter file(folder.empty() ? "." : folder.string());
    GgufTensorWriter tensors(file, architecture, skeleton.shape().head_width, types(model));
    if (model.manifest.modules.empty()) tensors.copy_from(model.weights.source());
    std::optional<Sidecar> beside;
    if (needs_sidecar(model))
      beside.emplace(folder.empty() ? "." : folder.string(), architecture, tensors.codes_in_base());
    write_tensors(model, tensors, beside ? &*beside : nullptr);
    Written written{{}, tensors.take()};
    keys.emplace_back("general.file_type", file_type(written.tensors));
    written.files = file.write(path, keys, static_cast<int64_t>(split_above * 1e9));
    if (!beside) return written;
    written.files.push_back(beside->write(model, written.files.front(), Sidecar::path_beside(path)));
    for (WrittenTensor& tensor : beside->take()) written.tensors.push_back(std::move(tensor));
    return written;
  }

 private:
  bool writes_out() const { return blocks == "written_out"; }
  bool needs_sidecar(const ModelToExport& model) const { return sidecar && !writes_out() && has_replicas(model); }

  // What the file has as its blocks, as steps of a plan.
  core::Plan steps_of(const ModelToExport& model) const {
    return writes_out() ? model.manifest.plan : core::default_plan(model.model->shape().layers);
  }
  Blocks blocks_of(const ModelToExport& model) const {
    Blocks all;
    for (const core::Step& step : steps_of(model)) all.push_back(step.block);
    return all;
  }

  void write_tensors(const ModelToExport& model, GgufTensorWriter& tensors, Sidecar* beside) const {
    core::Model& skeleton = *model.model;
    const auto source = open_source(skeleton, model.path, model.weights, Residency::stream);
    load_embedding_and_head(skeleton, model.path, model.weights);
    tensors.write(skeleton.embedding());
    if (beside != nullptr) beside->add(skeleton.embedding());
    if (const std::vector<float> factors = rope_factors(model.config, skeleton.shape()); !factors.empty())
      tensors.write_floats("rope_freqs.weight", factors);
    int64_t number = 0;
    for (const core::Step& step : steps_of(model)) {
      core::honour_interrupt();
      source->load(skeleton, step.block);
      tensors.write(skeleton.block(step.block, step.replica), as_written(skeleton, step, number++));
      if (beside != nullptr) {
        beside->add(skeleton.block(step.block));
        for (core::Block* replica : skeleton.replicas(step.block)) beside->add(*replica);
      }
      source->release(skeleton, step.block);
    }
    tensors.write(static_cast<core::Loadable&>(skeleton.norm()));
    if (core::shares_embedding(skeleton)) return;
    tensors.write(skeleton.head());
    if (beside != nullptr) beside->add(skeleton.head());
  }

  // Gates count where the file has every pass.
  WrittenBlock as_written(core::Model& model, const core::Step& step, int64_t number) const {
    core::Block& block = model.block(step.block, step.replica);
    WrittenBlock as{core::path_of_block(step.block), number};
    if (step.replica > 0) as.path += fmt::format(".replica{}", step.replica);
    if (!writes_out()) return as;
    as.attention = step.only == core::Half::feed_forward ? 0 : value_of(block.attention_gate());
    as.feed_forward = step.only == core::Half::attention ? 0 : value_of(block.mlp_gate());
    return as;
  }

  void add_reasons_of_plan(const ModelToExport& model, std::vector<std::string>& reasons) const {
    const core::Plan& plan = model.manifest.plan;
    const auto any = [&](auto&& says) { return std::any_of(plan.begin(), plan.end(), says); };
    if (writes_out()) {
      if (any([](const core::Step& step) { return step.kv != core::Step::kOwn; }))
        reasons.emplace_back(
            "later passes attend to keys and values of the first, and stock llama.cpp has those of every block; kv: "
            "own can be written out");
      if (any([](const core::Step& step) { return step.parallel > 1; }))
        reasons.emplace_back("replicas run side by side, and stock llama.cpp runs one block after the other");
      return;
    }
    if (plan == core::default_plan(model.model->shape().layers)) return;
    for (int64_t i = 0; i < model.model->shape().layers; ++i) {
      if (core::runs(plan, i)) continue;
      reasons.push_back(fmt::format("its plan leaves block {} out; blocks: written_out writes those that run", i));
      return;
    }
    if (!sidecar)
      reasons.emplace_back(
          "its plan runs blocks several times, and stock llama.cpp runs each once; sidecar: true or blocks: "
          "written_out holds it");
  }

  // What is computed beside a product, and what no type can hold, by name.
  void add_reasons_of_linears(const ModelToExport& model, std::vector<std::string>& reasons) const {
    std::set<std::string> seen;
    const auto add = [&](std::string why, const std::string& path) {
      if (seen.insert(why).second) reasons.push_back(fmt::format("{} ({})", why, path));
    };
    if (!model.manifest.inputs.empty())
      add("quant.activation rounds inputs as no type does", model.manifest.inputs.begin()->first);
    for (const auto& [path, module] : model.manifest.modules) {
      if (module.activation.covered()) add("quant.activation rounds inputs as no type does", path);
      if (module.weight.noise.in_inference()) add("quant.weight.noise is stored nowhere", path);
      const int64_t columns = columns_of(*model.model, path);
      const bool beside = !is_grid(module) && needs_sidecar(model);
      if (module.format == "token_adaptive" && !beside)
        add("replication.strategy token_adaptive has no weight of its own", path);
      if (candidate_types(types(model), 1, columns).empty())
        add(fmt::format("rows of {} weights are no whole blocks of {}", columns,
                        type == "auto" ? "any type" : type_named(type)->name),
            path);
      if (allow_refit) continue;
      const bool rotated = module.weight.incoherence.selected();
      if (rotated)
        add("quant.weight.incoherence rotates inputs and outputs; allow_refit: true rounds the weight itself", path);
      if (!rotated && !needs_sidecar(model) && !is_held(module, types(model), columns))
        add(fmt::format("no type holds {}; allow_refit: true rounds it to one", described(module)), path);
    }
  }

  // Beside a sidecar, which is exact, the file is as near as types come.
  GgufTypes types(const ModelToExport& model) const {
    const bool beside = needs_sidecar(model);
    return {type_named(type), allow_refit || beside, type_named(embedding), /*one_map=*/beside};
  }

  static int64_t columns_of(core::Model& model, const std::string& path) {
    if (path == model.embedding().path() || path == model.head().path()) return model.shape().width;
    std::string of_block = path;  // without the replica
    if (const size_t at = path.find(".replica"); at != std::string::npos)
      of_block.erase(at, path.find('.', at + 1) - at);
    return model.slot(of_block).in_features();
  }

  static std::string described(const QuantizedModule& module) {
    if (!module.replication.is_null()) return "weights of replication.strategy " + module.format;
    const quant::WeightConfig& weight = module.weight;
    return fmt::format("{} bits, group_size {}, {}", weight.bits, weight.group_size,
                       weight.codebook != "uniform" ? "codebook " + weight.codebook : weight.symmetry);
  }

  // Whether some type holds a weight of this grid, tried on one of four rows. What is decided by the tensors alone (a
  // strategy that becomes one grid) counts as held.
  static bool is_held(const QuantizedModule& module, const GgufTypes& types, int64_t columns) {
    if (!module.replication.is_null()) return is_grid(module);
    quant::WeightConfig weight = module.weight;
    weight.range = "minmax";
    const auto format = quant::make_format(weight, "", columns);
    const at::Tensor w = at::arange(4 * columns, at::kFloat).mul_(0.7391).sin_().reshape({4, columns});
    const CodedRows rows(*format, format->encode(w, format->fit(w, {})));
    const std::vector<const core::GgmlType*> candidates = candidate_types(types, 1, columns);
    return std::any_of(candidates.begin(), candidates.end(),
                       [&](const auto* one) { return rows.in(*one).has_value(); });
  }
};

}  // namespace

core::Polymorphic<Exporter> make_gguf() { return Gguf{}; }

}  // namespace exports
