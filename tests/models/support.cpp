#include "tests/models/support.h"

#include <algorithm>
#include <filesystem>

#include "core/io/files.h"
#include "core/io/hf_config.h"
#include "core/io/model_path.h"
#include "core/io/safetensors.h"
#include "models/registry.h"

namespace {

const std::filesystem::path kGolden = std::filesystem::path(REFRAIN_SOURCE_DIR) / "tests/golden/models";

}  // namespace

std::string golden_directory(const std::string& name) { return (kGolden / name).string(); }

std::vector<std::string> golden_names() {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(kGolden))
    names.push_back(entry.path().filename().string());
  std::sort(names.begin(), names.end());
  return names;
}

std::string family_of(const std::string& golden) {
  return core::read_hf_config(golden_directory(golden)).text("model_type");
}

std::shared_ptr<core::Model> load_model(const std::string& path) {
  const core::Weights weights(core::open_tensors(path), at::kFloat, at::kCPU);
  std::shared_ptr<core::Model> model = models::build(core::read_model_config(path));
  model->check(weights);
  core::load(*model, weights);
  return model;
}

at::Tensor expected_of(const std::string& golden, const std::string& name) {
  const auto checkpoint = core::Checkpoint::open(golden_directory(golden) + "/expected.safetensors");
  const core::TensorView& view = checkpoint.at(name);
  at::Tensor out = at::empty(view.shape, view.dtype == core::DType::I64 ? at::kLong : at::kFloat);
  TORCH_CHECK(view.dtype == core::DType::I64 || view.dtype == core::DType::F32, name);
  std::copy_n(view.data, view.bytes, static_cast<std::byte*>(out.mutable_data_ptr()));
  return out;
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

std::string golden_file(const std::string& golden, const std::string& file) {
  return core::read_file(golden_directory(golden) + "/" + file);
}
