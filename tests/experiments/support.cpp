#include "tests/experiments/support.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/io/files.h"
#include "models/registry.h"

namespace experiments {

namespace {

constexpr const char* kConfig = R"(name: lab
model: {path: MODEL}
quant: {method: rtn, weight: {bits: 2, group_size: 64}}
measure:
  perplexity: [{corpus: TEXT, seq_len: 64, windows: 3}]
)";

// What main does for the program, once for all tests: data, threads, no lines on the screen (log.txt still gets them).
class Process : public ::testing::Environment {
 public:
  void SetUp() override {
    setenv("REFRAIN_HOME", REFRAIN_SOURCE_DIR, /*overwrite=*/1);
    at::set_num_threads(2);
    spdlog::default_logger()->sinks().clear();
  }
};

const auto* const kProcess = ::testing::AddGlobalTestEnvironment(new Process);

}  // namespace

const std::string& shallow_model() {
  static const core::Scratch scratch;
  static const std::string directory = [] {
    std::string made = scratch.file("shallow");
    std::filesystem::copy(kTinyModel, made);
    std::string config = core::slurp(made + "/config.json");
    const std::string layers = "\"num_hidden_layers\": ";
    config.replace(config.find(layers) + layers.size(), 1, "3");
    core::write_atomically(made + "/config.json", config);
    return made;
  }();
  return directory;
}

Lab::Lab(const std::string& model) {
  const std::string text =
      core::slurp(std::string(REFRAIN_SOURCE_DIR) + "/data/corpora/tiny/valid.txt").substr(0, 4000);
  std::string config = kConfig;
  config.replace(config.find("MODEL"), 5, model);
  config.replace(config.find("TEXT"), 4, put("text.txt", text.substr(0, text.rfind('\n') + 1)));
  put("lab.yaml", config);
}

std::string Lab::copy_of_model(const std::string& name) const {
  std::filesystem::copy(kTinyModel, file(name));
  return file(name);
}

std::vector<Point> Lab::points(const Strings& overrides) const {
  Strings all{"out=" + out(), "quiet=true"};
  all.insert(all.end(), overrides.begin(), overrides.end());
  return read_points(file("lab.yaml"), all);
}

Outcome Lab::run(const Strings& overrides, bool force) const {
  const std::vector<Point> all = points(overrides);
  Resources resources(all.front().spec.out + "/.cache");
  Experiment experiment = open_experiment(std::make_unique<ListedPoints>(all), resources);
  resources.remember_tokens();
  return run_experiment(std::move(experiment), resources, force);
}

std::string Lab::id(const Strings& overrides) const {
  Resources resources("");
  Run run = resolve(points(overrides).front(), resources);
  identify(run, resources);
  return run.id;
}

const PerplexityConfig& first_perplexity(const Spec& spec) { return *spec.measure.all<PerplexityConfig>().front(); }

double loss_by_hand(const Spec& spec,
                    const std::function<at::Tensor(core::Model&, const std::vector<int64_t>& ids)>& logits_of) {
  Resources resources("");
  const ModelFiles& files = resources.model(spec.model.path);
  const auto model = models::build(files.config);
  core::load(*model, weights_of(spec, files));
  const core::Windows windows = windows_of(first_perplexity(spec), resources, files, model->shape());
  const at::NoGradGuard no_gradient;
  double sum = 0;
  for (int64_t n = 0; n < windows.count; ++n) {
    const auto ids = windows.window(n);
    const at::Tensor log_p = logits_of(*model, {ids.begin(), ids.end()}).log_softmax(-1);
    for (int64_t t = windows.first; t + 1 < windows.seq_len; ++t) sum -= log_p[t][ids[t + 1]].item<double>();
  }
  return sum / static_cast<double>(windows.scored());
}

core::Windows windows_of(const PerplexityConfig& config, Resources& resources, const ModelFiles& files,
                         const core::Shape& shape) {
  return config.windows_of(*resources.texts(files, shape));
}

std::string as_q8_0(const core::TensorView& view) {
  const at::Tensor w = at::from_blob(const_cast<std::byte*>(view.data), view.shape, at::kBFloat16).to(at::kFloat);
  const at::Tensor blocks = w.reshape({-1, 32});
  const at::Tensor scale = (blocks.abs().amax(-1, true) / 127).to(at::kHalf).contiguous();
  const at::Tensor codes = at::round(blocks / scale.to(at::kFloat)).clamp(-127, 127).to(at::kChar).contiguous();
  std::string bytes;
  for (int64_t i = 0; i < blocks.size(0); ++i) {
    bytes.append(static_cast<const char*>(scale.const_data_ptr()) + 2 * i, 2);
    bytes.append(static_cast<const char*>(codes.const_data_ptr()) + 32 * i, 32);
  }
  return bytes;
}

Json without_costs(Json row) {
  row.erase("stages");
  if (row.contains("quantized")) row["quantized"].erase("latency");
  return row;
}

void overwrite_tensor(const std::string& directory, const std::string& tensor, const std::string& bytes) {
  const std::string file = directory + "/model.safetensors";
  std::string content = core::slurp(file);
  uint64_t length = 0;
  std::memcpy(&length, content.data(), sizeof length);
  const Json header = Json::parse(content.substr(sizeof length, length));
  const size_t start = sizeof length + length + header[tensor]["data_offsets"][0].get<size_t>();
  content.replace(start, bytes.size(), bytes);
  core::write_atomically(file, content);
}

}  // namespace experiments
