// The same work on every device that this machine has: the forward pass against golden logits, and a whole experiment
// (full precision, rounding to nearest, every measurement) against the CPU.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>

#include "core/io/csv.h"
#include "core/io/hf_config.h"
#include "core/io/safetensors.h"
#include "models/registry.h"
#include "tests/cli/program.h"

namespace {

using Json = nlohmann::json;

std::vector<std::string> devices() {
  std::vector<std::string> present{"cpu"};
  if (at::hasCUDA()) present.emplace_back("cuda");
  if (at::hasMPS()) present.emplace_back("mps");
  return present;
}

class Device : public testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Present, Device, testing::ValuesIn(devices()), [](const auto& info) { return info.param; });

// ---- forward ----

at::Tensor stored(const core::Checkpoint& checkpoint, const std::string& name, at::ScalarType type) {
  const core::TensorView& view = checkpoint.at(name);
  at::Tensor out = at::empty(view.shape, type);
  std::copy_n(view.data, view.bytes, static_cast<std::byte*>(out.mutable_data_ptr()));
  return out;
}

TEST_P(Device, ComputesTheGoldenLogits) {
  const at::NoGradGuard no_gradient;
  const std::string directory = std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/models/qwen3_tied";
  const auto checkpoint = std::make_shared<core::Checkpoint>(core::Checkpoint::open(directory));
  const auto expected = core::Checkpoint::open(directory + "/expected.safetensors");
  const at::Device device(GetParam());
  const auto model = models::build(core::read_hf_config(directory));
  core::load(*model, core::Weights(checkpoint, at::kFloat, device));
  const at::Tensor logits = model->forward(stored(expected, "ids", at::kLong).to(device));
  EXPECT_EQ(logits.device().type(), device.type());
  EXPECT_LE((logits.cpu() - stored(expected, "logits", at::kFloat)).abs().max().item<float>(), 1e-3);
}

// ---- an experiment ----

struct Found {
  Json results;
  std::vector<std::vector<std::string>> modules;
};

// Two bits, where a code that differs shows.
Found run(const std::string& device, const char* threads) {
  cli::Program program;
  program.edit("bits: 4", "bits: 2");
  const cli::Finished finished = program.run({"c.yaml", "--set", "device=" + device, "--threads", threads});
  EXPECT_EQ(finished.code, 0) << finished.err;
  Found found;
  for (const std::string& path : program.everything()) {
    if (path.ends_with("/results.json")) found.results = Json::parse(core::slurp(program.file(path)));
    if (path.ends_with("/modules.csv")) found.modules = core::parse_csv(core::slurp(program.file(path)), path);
  }
  return found;
}

const Found& on_cpu() {
  static const Found found = run("cpu", "2");
  return found;
}

// The CPU is held against itself with another number of threads, which changes the order of its sums.
const Found& on(const std::string& device) {
  static std::map<std::string, Found> found;
  if (!found.contains(device)) found[device] = run(device, "1");
  return found[device];
}

// Every number of `expected` is in `actual`, within a share of its size; texts are equal.
void expect_near(const Json& actual, const Json& expected, const std::string& path) {
  if (expected.is_number()) {
    ASSERT_TRUE(actual.is_number()) << path;
    const double value = expected.get<double>();
    EXPECT_NEAR(actual.get<double>(), value, 1e-3 * std::abs(value) + 1e-6) << path;
  } else if (expected.is_structured()) {
    ASSERT_EQ(actual.size(), expected.size()) << path;
    for (const auto& [key, item] : expected.items()) {
      expect_near(expected.is_array() ? actual.at(std::stoul(key)) : actual.at(key), item, path + "." + key);
    }
  } else {
    EXPECT_EQ(actual, expected) << path;
  }
}

TEST_P(Device, MeasuresWhatTheCpuMeasures) {
  const Found& found = on(GetParam());
  EXPECT_THAT(found.results["machine"]["device"].get<std::string>(), testing::StartsWith(GetParam()));
  for (const char* part : {"baseline", "quantized", "bits"}) {
    expect_near(found.results[part], on_cpu().results[part], part);
  }
}

TEST_P(Device, QuantizesAsTheCpuDoes) {
  const Found& found = on(GetParam());
  ASSERT_EQ(found.modules.size(), on_cpu().modules.size());
  const auto& names = found.modules.at(0);
  const auto error = static_cast<size_t>(std::find(names.begin(), names.end(), "weight_error") - names.begin());
  ASSERT_LT(error, names.size());
  for (size_t row = 1; row < found.modules.size(); ++row) {
    const double expected = std::stod(on_cpu().modules[row][error]);
    EXPECT_GT(expected, 0.01) << "two bits lose something";
    EXPECT_NEAR(std::stod(found.modules[row][error]), expected, 1e-4 * expected) << found.modules[row][0];
  }
  if (GetParam() != "cpu") return;
  EXPECT_EQ(found.results["hashes"]["codes"], on_cpu().results["hashes"]["codes"]);
}

// ---- a device that is not there ----

class Absent : public testing::TestWithParam<std::string> {};

TEST_P(Absent, IsRefusedBeforeAnythingIsRead) {
  const std::string device = GetParam(), name = device == "mps" ? "MPS" : "CUDA";
  if (testing::Matches(testing::Contains(device))(devices())) GTEST_SKIP() << "this machine has " << name;
  cli::Program program;
  program.edit("name: n\n", "name: n\ndevice: " + device + "\n");
  program.edit("tiny-qwen3", "nowhere");
  const cli::Strings before = program.everything();
  const cli::Finished finished = program.run({"c.yaml"});
  EXPECT_EQ(finished.code, 2);
  EXPECT_EQ(finished.err,
            "c.yaml:2: device: this machine or this build of LibTorch has no " + name + ". Use device: cpu.\n");
  EXPECT_EQ(finished.out, "");
  EXPECT_EQ(program.everything(), before);
}

INSTANTIATE_TEST_SUITE_P(Known, Absent, testing::Values("mps", "cuda"));

}  // namespace
