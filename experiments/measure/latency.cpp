#include "experiments/measure/latency.h"

#include <ATen/ATen.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <filesystem>
#include <numeric>

#include "core/bandwidth.h"
#include "core/context.h"
#include "core/cpu_load.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/io/file_lock.h"
#include "core/machine.h"
#include "core/random.h"
#include "experiments/measure/measures.h"

namespace experiments {

void LatencyConfig::keys(core::Keys& k) {
  k.key("contexts", contexts, "tokens of the prompt; each is measured by itself", {1, 1 << 20});
  k.key("generate", generate, "tokens that are generated behind the first", {1, 1 << 20});
  k.key("repetitions", repetitions, "of which mean and standard deviation are told; one more warms up", {1, 1000});
}

void LatencyConfig::check() const {
  core::require(!contexts.empty(), "{}: the list is empty. Name one context or several, e.g. [64, 1024].",
                where("contexts"));
}

void LatencyConfig::check_context(const core::Shape& shape) const {
  for (const int64_t context : contexts) core::require_context(shape, context + generate, where("contexts"));
}

Timing timing_of(const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  Timing timing{.mean = std::accumulate(values.begin(), values.end(), 0.0) / n};
  double squares = 0;
  for (const double value : values) squares += std::pow(value - timing.mean, 2);
  if (n > 1) timing.sd = std::sqrt(squares / (n - 1));
  return timing;
}

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

struct Run {
  double first, rest;  // seconds: to the first token, and for all behind it
};

// prompt: [1, T] int64.
Run run_once(core::Model& model, const at::Tensor& prompt, int64_t generate) {
  core::honour_interrupt();
  core::Context context(model, prompt.size(1) + generate);
  const auto start = Clock::now();
  at::Tensor next = core::likeliest(context.read(prompt));
  next.item<int64_t>();  // an accelerator has finished
  const double first = seconds_since(start);
  for (int64_t i = 0; i < generate; ++i) next = core::likeliest(context.read(next));
  next.item<int64_t>();
  return {first, seconds_since(start) - first};
}

at::Tensor random_prompt(int64_t tokens, int64_t vocabulary, uint64_t seed) {
  core::Random random(seed, "", "latency");
  at::Tensor prompt = at::empty({1, tokens}, at::kLong);
  for (int64_t i = 0; i < tokens; ++i) prompt.mutable_data_ptr<int64_t>()[i] = random.below(vocabulary);
  return prompt;
}

LatencyAt measure_at(core::Model& model, int64_t context, const LatencyConfig& config, uint64_t seed) {
  const at::Tensor prompt = random_prompt(context, model.shape().vocabulary, seed);
  std::vector<double> ttft, read, written;
  for (int64_t i = -1; i < config.repetitions; ++i) {
    const Run run = run_once(model, prompt, config.generate);
    if (i < 0) continue;  // the warm-up
    ttft.push_back(1e3 * run.first);
    read.push_back(static_cast<double>(context) / run.first);
    written.push_back(static_cast<double>(config.generate) / run.rest);
  }
  return {context, timing_of(ttft), timing_of(read), timing_of(written)};
}

std::string lock_file() {
  return (std::filesystem::temp_directory_path() / fmt::format("refrain-latency-{}.lock", ::getuid())).string();
}

}  // namespace

Latency measure_latency(core::Model& model, const LatencyConfig& config, uint64_t seed) {
  const c10::InferenceMode inference;
  const auto lock = core::FileLock::wait(lock_file(), core::FileLock::Kind::exclusive, [](const std::string& holder) {
    spdlog::info("latency: another measurement is running on this machine ({}); waiting for it", holder);
  });
  const core::CpuLoad load;
  Latency latency{.at = {}, .load_average = core::load_average(), .others = {}};
  latency.read_bandwidth = core::read_bandwidth(core::uncached_bytes());
  core::reset_peak_memory();
  for (const int64_t context : config.contexts) latency.at.push_back(measure_at(model, context, config, seed));
  latency.peak_rss_bytes = core::peak_memory_bytes();
  latency.others = load.others();
  if (latency.others.value_or(0) > 0.1)
    spdlog::info("latency: other processes kept {:.1f} cores busy; the figures are those of a busy machine",
                 *latency.others);
  return latency;
}

// ---- the measure ----

namespace {

Json values_of(const Latency& latency, const LatencyConfig& config, const Subject& subject) {
  const core::Cost& all = subject.bill->all;
  Json contexts = Json::array();
  for (const LatencyAt& at : latency.at) {
    const double rate = at.tokens_per_s.mean * static_cast<double>(all.bytes_read);
    contexts.push_back({{"context", at.context},
                        {"ttft_ms", at.ttft_ms.mean},
                        {"ttft_ms_sd", at.ttft_ms.sd},
                        {"prompt_tokens_per_s", at.prompt_tokens_per_s.mean},
                        {"prompt_tokens_per_s_sd", at.prompt_tokens_per_s.sd},
                        {"tokens_per_s", at.tokens_per_s.mean},
                        {"tokens_per_s_sd", at.tokens_per_s.sd},
                        {"bandwidth_fraction", rate / latency.read_bandwidth}});
  }
  const double at_16_bits = 2.0 * static_cast<double>(all.weights);
  return {{"contexts", std::move(contexts)},
          {"generate", config.generate},
          {"repetitions", config.repetitions},
          {"weight_bytes_per_token", all.bytes_read},
          {"read_bandwidth", latency.read_bandwidth},
          {"peak_rss_bytes", latency.peak_rss_bytes},
          {"file_bytes", subject.file_bytes},
          {"compression", at_16_bits / static_cast<double>(subject.file_bytes)},
          {"load_average", latency.load_average},
          {"busy_cores_of_others", latency.others ? Json(*latency.others) : Json(nullptr)}};
}

}  // namespace

Prepared LatencyConfig::prepare(Texts& texts) const {
  check_context(texts.shape());
  return {{}, [config = *this](const Subject& subject) {
            const Latency latency = measure_latency(subject.model, config, subject.seed);
            return Found{.values = values_of(latency, config, subject)};
          }};
}

std::vector<Column> LatencyConfig::columns() const {
  return {{.heading = "tokens/s", .path = "contexts/0/tokens_per_s", .digits = 1, .less_is_better = false}};
}

DetailTable LatencyConfig::details() const {
  constexpr double kMegabytes = 1e-6;
  const auto rate = [](const char* heading, const char* path, int digits, const char* spread) {
    return Column{.heading = heading, .path = path, .digits = digits, .less_is_better = false, .spread = spread};
  };
  return {.list = "contexts",
          .columns = {{.heading = "context", .path = "context", .digits = 0},
                      {.heading = "TTFT ms", .path = "ttft_ms", .digits = 2, .spread = "ttft_ms_sd"},
                      rate("prompt tokens/s", "prompt_tokens_per_s", 0, "prompt_tokens_per_s_sd"),
                      rate("tokens/s", "tokens_per_s", 1, "tokens_per_s_sd"),
                      {.heading = "MB/token", .path = "/weight_bytes_per_token", .digits = 1, .scale = kMegabytes},
                      {.heading = "of bandwidth",
                       .path = "bandwidth_fraction",
                       .digits = 1,
                       .unit = Column::Unit::percent,
                       .less_is_better = false},
                      {.heading = "peak MB", .path = "/peak_rss_bytes", .digits = 1, .scale = kMegabytes},
                      {.heading = "file MB", .path = "/file_bytes", .digits = 1, .scale = kMegabytes},
                      {.heading = "compression", .path = "/compression", .digits = 2, .less_is_better = false}}};
}

MeasureKind make_latency() {
  return {.help = "how fast it reads and writes, one sequence at a time; nothing unless given",
          .make = [] { return LatencyConfig{}; }};
}

}  // namespace experiments
