// predict: how many tokens per second a shape would make on this machine, whose bandwidth and kernels it measures, or
// on a described one. Exit codes as of generate.
#include <ATen/Parallel.h>
#include <fmt/core.h>

#include <CLI/CLI.hpp>
#include <filesystem>

#include "core/bandwidth.h"
#include "core/cpu_load.h"
#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/hf_config.h"
#include "core/io/model_path.h"
#include "core/io/size.h"
#include "core/machine.h"
#include "core/text/corpus.h"
#include "experiments/programs/machine_model.h"
#include "experiments/programs/program.h"
#include "experiments/results/table.h"
#include "models/registry.h"

namespace {

struct Options {
  std::vector<std::string> shapes{"qwen2.5-32b", "deepseek-v2-lite"};
  std::vector<int64_t> bits{4, 3, 2}, replicas{1, 2, 4};
  int64_t group_size = 64, context = 0, threads = 0;
  std::string kind = experiments::kLinear, bandwidth, cache = "0";
  double ns_per_weight = 0;
};

// A name under data/shapes, or a directory with a config.json.
core::JsonObject config_of(const std::string& shape) {
  for (const std::string& root : core::data_roots()) {
    const std::string file = root + "/shapes/" + shape + ".json";
    if (std::filesystem::exists(file)) return core::JsonObject::read(file);
  }
  return core::read_model_config(core::find_model(shape));
}

// What does not change from row to row, in words.
std::string described(const Options& options, const experiments::Machine& machine) {
  const bool here = options.bandwidth.empty();
  std::string text = fmt::format("{}: reads {:.1f} GB/s ({})", here ? core::cpu_name() : "the machine described",
                                 1e-9 * machine.bandwidth,
                                 here ? fmt::format("measured, {} threads", at::get_num_threads()) : "as given");
  if (!here && options.ns_per_weight == 0) text += "; its computing is not known, and not counted: upper bounds";
  return text;
}

int predict(const Options& options) {
  experiments::Machine machine;
  const int64_t cache = core::parse_size(options.cache, "--cache");
  const bool here = options.bandwidth.empty();
  machine.bandwidth = here ? 0.0 : static_cast<double>(core::parse_size(options.bandwidth, "--bandwidth"));
  core::require(here || machine.bandwidth > 0, "--bandwidth: 0 bytes per second read nothing. Give e.g. 200GB.");
  if (options.ns_per_weight > 0) machine.seconds_per_weight = 1e-9 * options.ns_per_weight;
  std::vector<core::JsonObject> configs;
  for (const std::string& shape : options.shapes) {
    configs.push_back(config_of(shape));
    models::build(configs.back());  // refuses what it does not know before anything is measured
  }
  const core::CpuLoad load;
  if (here) machine.bandwidth = core::read_bandwidth(core::uncached_bytes());
  experiments::Table table{.columns = {"shape", "bits", "R", "GB", "GB/token", "ns/weight", "memory ms", "compute ms",
                                       "ms/token", "tokens/s"},
                           .rows = {}};
  for (const int64_t bits : options.bits) {
    for (const int64_t replicas : options.replicas) {
      const experiments::Pricing pricing{
          .bits = bits, .group_size = options.group_size, .kind = options.kind, .replicas = replicas};
      experiments::Machine used = machine;
      if (here && !used.seconds_per_weight) used.seconds_per_weight = experiments::kernel_seconds_per_weight(pricing);
      for (size_t i = 0; i < configs.size(); ++i) {
        const auto price = experiments::price_of(*models::build(configs[i]), pricing, options.context, cache);
        const auto p = experiments::predict(price, used);
        table.rows.push_back({options.shapes[i], std::to_string(bits), std::to_string(replicas),
                              fmt::format("{:.2f}", 1e-9 * static_cast<double>(price.file_bytes)),
                              fmt::format("{:.2f}", 1e-9 * static_cast<double>(price.bytes())),
                              used.seconds_per_weight ? fmt::format("{:.4f}", 1e9 * *used.seconds_per_weight) : "–",
                              fmt::format("{:.1f}", 1e3 * p.memory_seconds),
                              used.seconds_per_weight ? fmt::format("{:.1f}", 1e3 * p.compute_seconds) : "–",
                              fmt::format("{:.1f}", 1e3 * p.token_seconds), fmt::format("{:.1f}", p.tokens_per_s())});
      }
    }
  }
  std::stable_sort(table.rows.begin(), table.rows.end(), [&](const auto& a, const auto& b) {
    const auto place = [&](const std::string& name) {
      return std::find(options.shapes.begin(), options.shapes.end(), name) - options.shapes.begin();
    };
    return place(a[0]) < place(b[0]);
  });
  fmt::print(
      "PREDICTIONS, not measurements. {}.\nCodes in groups of {} with float16 scales, R: {}; head, embedding and "
      "router in 16 bits; a context of {} tokens.\n",
      described(options, machine), options.group_size, options.kind, options.context);
  if (const double others = load.others().value_or(0); here && others > 0.1)
    fmt::print("Other processes kept {:.1f} cores busy meanwhile.\n", others);
  fmt::print("\n{}", table.text());
  return 0;
}

int parse_and_run(int argc, char** argv) {
  Options options;
  bool no_build = false;
  CLI::App app{"Predicts tokens per second of a shape from its bill, a read bandwidth and a kernel's time per weight."};
  app.add_option("SHAPE", options.shapes, "names under data/shapes/, or directories with a config.json")
      ->capture_default_str();
  app.add_option("--bits", options.bits, "bits per code")->delimiter(',')->check(CLI::Range(1, 8));
  app.add_option("--replicas", options.replicas, "R")->delimiter(',')->check(CLI::Range(1, 16));
  app.add_option("--kind", options.kind,
                 "what is there R times: sets of scales of a linear, passes of a block in a "
                 "row, or replicas of a block side by side")
      ->check(CLI::IsMember({experiments::kLinear, experiments::kDepth, experiments::kParallel}))
      ->capture_default_str();
  app.add_option("--group", options.group_size, "weights that share a scale")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--context", options.context, "tokens whose keys and values are read")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--bandwidth", options.bandwidth, "bytes per second of another machine, e.g. 200GB for an M1 Pro");
  app.add_option("--ns-per-weight", options.ns_per_weight, "of its kernel; measured here unless given with --bandwidth")
      ->check(CLI::Range(1e-6, 1e6));
  app.add_option("--cache", options.cache, "bytes of a cache in which a block may wait for its next pass, e.g. 24MB")
      ->capture_default_str();
  app.add_option("--threads", options.threads, "0: physical cores that this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_flag("--no-build", no_build, "run what is built; read by the launcher");
  if (!experiments::parsed(app, argc, argv)) return 0;
  at::set_num_threads(static_cast<int>(options.threads > 0 ? options.threads : core::usable_threads()));
  return predict(options);
}

}  // namespace

int main(int argc, char** argv) {
  return experiments::guarded([&] { return parse_and_run(argc, argv); }, "interrupted");
}
