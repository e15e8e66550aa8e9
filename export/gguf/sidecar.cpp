#include "export/gguf/sidecar.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <filesystem>
#include <limits>

#include "core/io/gguf_names.h"
#include "export/stored_tensor.h"
#include "quant/linear/quantized_linear.h"

namespace exports {

void Sidecar::add(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor whole = tensor.detach().cpu().contiguous();
  const bool bytes = whole.scalar_type() == at::kByte;  // GGUF has no unsigned ones
  const core::GgmlType& type = *core::find_ggml_type(bytes ? "I8" : core::name_of(dtype_of(whole)));
  const std::string in_file = core::sidecar_name(name);
  file_.add(in_file, type, whole.dim() == 0 ? std::vector<int64_t>{1} : whole.sizes().vec());
  file_.append({static_cast<const std::byte*>(whole.const_data_ptr()), whole.nbytes()});
  written_.push_back({in_file, type.name, 0, static_cast<int64_t>(whole.nbytes()), 0});
}

bool Sidecar::has_codes(const core::Slot& slot) const {
  const auto place = core::gguf_place(architecture_, slot.path() + ".weight");
  return place && std::any_of(in_base_.begin(), in_base_.end(),
                              [&](const core::CodesInBase& codes) { return codes.tensor == place->tensor; });
}

void Sidecar::add(core::Slot& slot) {
  if (!slot.filled()) return;  // of a replica: the block's own
  const auto linear = slot.in_memory();
  const auto* quantized = dynamic_cast<const quant::QuantizedLinear*>(linear.get());
  if (quantized == nullptr) return;
  if (quantized->codes_of().empty() && !has_codes(slot)) add(slot.path() + ".codes", quantized->codes().packed());
  for (const quant::Parameter& parameter : quantized->parameters())
    add(slot.path() + "." + parameter.name, stored(parameter));
}

void Sidecar::add(core::Block& block) {
  for (const auto& module : block.modules(/*include_self=*/false)) {
    if (auto* slot = dynamic_cast<core::Slot*>(module.get())) {
      add(*slot);
      continue;
    }
    const auto* loadable = dynamic_cast<core::Loadable*>(module.get());
    if (loadable == nullptr) continue;
    for (const core::State& state : loadable->state()) {
      if (!core::gguf_place(architecture_, state.name)) add(state.name, state.tensor);  // gates, norms of a replica
    }
  }
}

std::string Sidecar::path_beside(const std::string& base) {
  constexpr std::string_view kEnding = ".gguf";
  return (base.ends_with(kEnding) ? base.substr(0, base.size() - kEnding.size()) : base) + ".refrain.gguf";
}

std::string Sidecar::write(const ModelToExport& model, const std::string& base, const std::string& path) const {
  std::vector<std::string> tensors;
  std::vector<int32_t> bits, factor, offset;
  for (const core::CodesInBase& codes : in_base_) {
    tensors.push_back(codes.tensor);
    bits.push_back(codes.bits);
    factor.push_back(codes.map.factor);
    offset.push_back(codes.map.offset);
  }
  core::GgufKeyValues keys{{"general.architecture", std::string(architecture_.name)},
                           {"general.type", std::string("adapter")},
                           {"adapter.type", std::string("refrain")},
                           {"general.name", model.manifest.model},
                           {"refrain.version", static_cast<uint32_t>(core::kSidecarVersion)},
                           {"refrain.base", std::filesystem::path(base).filename().string()},
                           {"refrain.base_hash", core::hash_of_base(core::Gguf::open(base))},
                           {"refrain.plan", plan_in_sidecar(model.manifest.plan)},
                           {"refrain.manifest", manifest_in_sidecar(model.manifest)}};
  if (!tensors.empty()) {
    keys.emplace_back("refrain.codes.tensors", std::move(tensors));
    keys.emplace_back("refrain.codes.bits", std::move(bits));
    keys.emplace_back("refrain.codes.factor", std::move(factor));
    keys.emplace_back("refrain.codes.offset", std::move(offset));
  }
  return file_.write(path, keys, std::numeric_limits<int64_t>::max()).front();
}

}  // namespace exports
