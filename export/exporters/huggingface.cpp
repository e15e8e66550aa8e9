// Hugging Face folders: the weights themselves (any tool opens them), or codes and parameters in the formats of
// GPTQModel and of compressed-tensors (llm-compressor, vLLM), which their libraries load.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/text/model_texts.h"
#include "export/checkpoint.h"
#include "export/exporter.h"
#include "export/huggingface/folder.h"
#include "export/huggingface/packed.h"

namespace exports {

namespace {

using nlohmann::ordered_json;

const std::map<std::string, at::ScalarType> kDtypes{
    {"float32", at::kFloat}, {"bfloat16", at::kBFloat16}, {"float16", at::kHalf}};

struct HuggingFace : Exporter {
  std::string to = "auto";
  std::string format = "dequantized";
  std::string dtype = "bfloat16";

  std::string summary() const override { return "a Hugging Face folder"; }

  void keys(core::Keys& k) override {
    k.key("path", to, "the folder, which must not be there; auto: huggingface in the run directory").not_identity();
    k.key("format", format,
          "dequantized: weights; gptq: codes as GPTQModel has them (checkpoint_format gptq_v2; 2, 3, 4 and 8 bits); "
          "compressed_tensors: as compressed-tensors has them (pack-quantized; 4 and 8 bits)",
          {"dequantized", "gptq", "compressed_tensors"})
        .not_identity();
    k.key("dtype", dtype, "of all that is stored as floats but for scales; the error of rounding to it is stated",
          {"bfloat16", "float16", "float32"})
        .not_identity();
  }

  std::string path() const override { return to == "auto" ? "" : to; }
  std::string default_name() const override { return "huggingface"; }

  std::vector<std::string> reasons(const ModelToExport& model) const override {
    std::vector<std::string> reasons;
    std::set<std::string> seen;
    const auto add = [&](const std::string& why, const std::string& path) {
      if (seen.insert(why).second) reasons.push_back(fmt::format("{} ({})", why, path));
    };
    if (model.has_prefix) reasons.emplace_back("runtime.prefix needs keys and values that no folder holds");
    if (model.manifest.plan != core::default_plan(model.model->shape().layers))
      reasons.emplace_back("its plan runs blocks several times, and transformers runs each once");
    if (!model.manifest.inputs.empty())
      add("quant.activation rounds inputs, which these formats do not say", model.manifest.inputs.begin()->first);
    std::optional<PackedGrid> grid;
    for (const auto& [path, module] : model.manifest.modules) {
      if (module.activation.covered()) add("quant.activation rounds inputs, which these formats do not say", path);
      if (module.weight.noise.in_inference()) add("quant.weight.noise is stored nowhere", path);
      if (module.format == "token_adaptive") add("replication.strategy token_adaptive has no weight", path);
      if (format == "dequantized") continue;
      add_packed_reasons(*model.model, path, module, grid, add);
    }
    if (format != "dequantized" && model.manifest.modules.empty()) reasons.emplace_back("nothing in it is quantized");
    return reasons;
  }

  Written write(const ModelToExport& model, const std::string& path) const override {
    Folder folder(path);
    Written written;
    core::Model& skeleton = *model.model;
    const auto source = open_source(skeleton, model.path, model.weights, Residency::stream);
    load_embedding_and_head(skeleton, model.path, model.weights);
    std::vector<std::string> dense;  // linears of blocks that stay as they are
    add(skeleton.embedding(), folder, written, nullptr);
    add(static_cast<core::Loadable&>(skeleton.norm()), folder, written);
    if (!core::shares_embedding(skeleton)) add(skeleton.head(), folder, written, nullptr);
    folder.end_shard();
    for (int64_t i = 0; i < skeleton.shape().layers; ++i) {
      core::honour_interrupt();
      source->load(skeleton, i);
      for (const auto& module : skeleton.block(i).modules(/*include_self=*/false)) {
        if (auto* slot = dynamic_cast<core::Slot*>(module.get())) {
          add(*slot, folder, written, &dense);
        } else if (auto* other = dynamic_cast<core::Loadable*>(module.get())) {
          add(*other, folder, written);
        }
      }
      folder.end_shard();
      source->release(skeleton, i);
    }
    put_texts(model, dense, folder);
    written.files = folder.commit();
    return written;
  }

 private:
  template <class Add>
  void add_packed_reasons(core::Model& model, const std::string& path, const QuantizedModule& module,
                          std::optional<PackedGrid>& grid, const Add& add) const {
    const quant::WeightConfig& weight = module.weight;
    if (path == model.embedding().path() || path == model.head().path())
      return add("embedding and head are stored in full precision", path);
    if (!module.replication.is_null() && module.format != "affine")
      return add(fmt::format("weights of replication.strategy {} are no plain grid", module.format), path);
    if (const std::string why = not_packed(weight); !why.empty()) return add(why, path);
    const std::set<int64_t> bits = format == "gptq" ? std::set<int64_t>{2, 3, 4, 8} : std::set<int64_t>{4, 8};
    if (!bits.contains(weight.bits)) return add(fmt::format("{} bits are none that it stores", weight.bits), path);
    if (!grid) grid = packed_grid(weight);
    if (*grid != packed_grid(weight))
      add("linears differ in bits, groups or symmetry, and the format has one for all", path);
    const core::Slot& slot = model.slot(path);
    if (slot.out_features() % 32 != 0 || slot.in_features() % 32 != 0)
      add(fmt::format("sides of {} and {} are no multiples of 32", slot.out_features(), slot.in_features()), path);
  }

  // A float tensor in the dtype, and what that costs.
  void add(const std::string& name, const at::Tensor& tensor, Folder& folder, Written& written) const {
    const at::Tensor exact = tensor.detach().to(at::kFloat).cpu(), rounded = exact.to(kDtypes.at(dtype));
    const double norm = exact.square().sum().item<double>();
    const double error = at::sub(rounded.to(at::kFloat), exact).square().sum().item<double>();
    folder.add(name, rounded);
    written.tensors.push_back(
        {name, dtype, exact.numel(), static_cast<int64_t>(rounded.nbytes()), norm > 0 ? error / norm : 0});
  }

  void add(core::Loadable& module, Folder& folder, Written& written) const {
    for (const core::State& state : module.state()) add(state.name, state.tensor, folder, written);
  }

  // dense: gets the paths of linears without codes.
  void add(core::Slot& slot, Folder& folder, Written& written, std::vector<std::string>* dense) const {
    const std::shared_ptr<core::Linear> linear = slot.in_memory();
    const auto* quantized = dynamic_cast<const quant::QuantizedLinear*>(linear.get());
    if (slot.has_bias()) add(slot.path() + ".bias", linear->bias(), folder, written);
    if (format == "dequantized" || quantized == nullptr) {
      if (dense != nullptr && quantized == nullptr) dense->push_back(slot.path());
      return add(slot.path() + ".weight", linear->weight(), folder, written);
    }
    int64_t bytes = 0;
    for (const auto& [name, tensor] : format == "gptq" ? gptq_tensors(*quantized) : compressed_tensors(*quantized)) {
      folder.add(slot.path() + "." + name, tensor);
      bytes += static_cast<int64_t>(tensor.nbytes());
    }
    written.tensors.push_back({slot.path() + ".weight", format, slot.out_features() * slot.in_features(), bytes, 0});
  }

  void put_texts(const ModelToExport& model, const std::vector<std::string>& dense, Folder& folder) const {
    for (const auto& [name, content] : core::read_model_texts(model.path).files) {
      if (name != "config.json") folder.put(name, content);
    }
    auto config = ordered_json::parse(core::read_model_texts(model.path).at("config.json"));
    config.erase("dtype");
    config["torch_dtype"] = dtype;
    config["tie_word_embeddings"] = core::shares_embedding(*model.model);
    if (!config.contains("architectures")) config["architectures"] = {architecture(model.model->shape().family)};
    if (format != "dequantized") {
      const PackedGrid grid = packed_grid(model.manifest.modules.begin()->second.weight);
      config["quantization_config"] = format == "gptq" ? gptq_config(grid, dense) : compressed_config(grid, dense);
      if (format == "gptq") folder.put("quantize_config.json", config["quantization_config"].dump(2) + "\n");
    }
    folder.put("config.json", config.dump(2) + "\n");
  }

  // The class of transformers; a folder that was made from a GGUF file names none.
  static std::string architecture(const std::string& family) {
    static const std::map<std::string, std::string> classes{
        {"llama", "LlamaForCausalLM"},           {"qwen2", "Qwen2ForCausalLM"},
        {"qwen3", "Qwen3ForCausalLM"},           {"qwen2_moe", "Qwen2MoeForCausalLM"},
        {"qwen3_moe", "Qwen3MoeForCausalLM"},    {"deepseek", "DeepseekForCausalLM"},
        {"deepseek_v2", "DeepseekV2ForCausalLM"}};
    const auto found = classes.find(family);
    return found == classes.end() ? family : found->second;
  }

  static ordered_json gptq_config(const PackedGrid& grid, const std::vector<std::string>& dense) {
    ordered_json config{{"quant_method", "gptq"}, {"checkpoint_format", "gptq_v2"},
                        {"bits", grid.bits},      {"group_size", grid.group_size},
                        {"sym", grid.symmetric},  {"desc_act", false},
                        {"lm_head", false},       {"pack_dtype", "int32"}};
    for (const std::string& path : dense) config["dynamic"]["-:^" + escaped(path) + "$"] = ordered_json::object();
    return config;
  }

  static ordered_json compressed_config(const PackedGrid& grid, std::vector<std::string> dense) {
    dense.emplace_back("lm_head");
    ordered_json weights{{"num_bits", grid.bits},
                         {"type", "int"},
                         {"symmetric", grid.symmetric},
                         {"strategy", grid.group_size > 0 ? "group" : "channel"},
                         {"dynamic", false},
                         {"group_size", nullptr}};
    if (grid.group_size > 0) weights["group_size"] = grid.group_size;
    const ordered_json group{
        {"targets", {"Linear"}}, {"weights", weights}, {"input_activations", nullptr}, {"output_activations", nullptr}};
    return {{"quant_method", "compressed-tensors"},
            {"format", "pack-quantized"},
            {"quantization_status", "compressed"},
            {"config_groups", {{"group_0", group}}},
            {"ignore", dense},
            {"kv_cache_scheme", nullptr}};
  }

  static std::string escaped(const std::string& path) {
    std::string out;
    for (const char c : path) out += c == '.' ? "\\." : std::string(1, c);
    return out;
  }
};

}  // namespace

core::Polymorphic<Exporter> make_huggingface() { return HuggingFace{}; }

}  // namespace exports
