#include "quant/calibration/statistics_store.h"

#include <ATen/ATen.h>

#include <cstring>
#include <nlohmann/json.hpp>

#include "core/io/safetensors.h"

namespace quant {

namespace {

constexpr const char* kTensors = "statistics.safetensors";
constexpr const char* kNumbers = "statistics.json";

at::Tensor read(const core::Checkpoint& file, const std::string& name) {
  if (!file.has(name)) return {};
  const core::TensorView& view = file.at(name);
  at::Tensor tensor = at::empty(view.shape, at::kFloat);
  std::memcpy(tensor.mutable_data_ptr<float>(), view.data, view.bytes);
  return tensor;
}

}  // namespace

core::CacheKey StatisticsStore::key_of(const std::string& name, const Needs& needs) const {
  TORCH_CHECK(!needs.cross, name, ": errors of inputs depend on what is quantized before, and are not kept");
  core::CacheKey key = key_;
  key.depends += "linear: " + name + "\nhessian: " + (needs.hessian ? "yes" : "no") + "\n";
  if (needs.mean_abs) key.depends += "mean_abs: yes\n";  // the rest is always there
  return key;
}

bool StatisticsStore::has(const std::string& name, const Needs& needs) const {
  return cache_.find(key_of(name, needs)).has_value();
}

std::optional<Statistics> StatisticsStore::find(const std::string& name, const Needs& needs) {
  const std::optional<core::CacheEntry> entry = cache_.find(key_of(name, needs));
  if (!entry) return std::nullopt;
  const auto file = core::Checkpoint::open(entry->path(kTensors));
  const nlohmann::json numbers = nlohmann::json::parse(entry->read(kNumbers));
  ++found_;
  return Statistics{.hessian = read(file, "hessian"),
                    .mean_square = read(file, "mean_square"),
                    .absmax = read(file, "absmax"),
                    .mean_abs = read(file, "mean_abs"),
                    .kurtosis = numbers["kurtosis"].is_null() ? 0.0 : numbers["kurtosis"].get<double>(),
                    .tokens = numbers["tokens"]};
}

void StatisticsStore::keep(const std::string& name, const Needs& needs, const Statistics& statistics) {
  core::CacheEntry entry = cache_.open(key_of(name, needs));
  if (entry.complete()) return;     // another process was faster
  std::vector<at::Tensor> tensors;  // they own what is written
  std::vector<core::TensorToWrite> all;
  const auto add = [&](const char* name, const at::Tensor& tensor) {
    if (!tensor.defined()) return;
    tensors.push_back(tensor.cpu().contiguous());
    all.push_back({name, core::DType::F32, tensor.sizes().vec(), tensors.back().const_data_ptr()});
  };
  add("hessian", statistics.hessian);
  add("mean_square", statistics.mean_square);
  add("absmax", statistics.absmax);
  add("mean_abs", statistics.mean_abs);
  core::write_safetensors(entry.path(kTensors), all);
  entry.write(kNumbers, nlohmann::json{{"kurtosis", statistics.kurtosis}, {"tokens", statistics.tokens}}.dump());
  entry.commit();
  ++kept_;
}

}  // namespace quant
