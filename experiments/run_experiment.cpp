// run_experiment: reads the command line and hands over. Exit codes: 0 done, 1 a failed point or our bug, 2 the user's
// mistake, 3 an expectation missed, 130 and 143 interrupted.
#include <ATen/Parallel.h>
#include <fmt/core.h>
#include <spdlog/spdlog.h>
#include <torch/version.h>

#include <CLI/CLI.hpp>

#include "core/config/nearest.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/io/files.h"
#include "core/io/size.h"
#include "core/machine.h"
#include "core/text/corpus.h"
#include "experiments/check_expect.h"
#include "experiments/compare.h"
#include "experiments/experts.h"
#include "experiments/program.h"
#include "experiments/results/latency_table.h"
#include "experiments/results/table.h"
#include "experiments/runner.h"
#include "experiments/sensitivity.h"
#include "experiments/stages.h"
#include "experiments/training_cost.h"
#include "experiments/version.h"
#include "models/registry.h"
#include "quant/kernels/product.h"
#include "replication/mix.h"

namespace {

using experiments::Point;
using experiments::Spec;

using experiments::kFailed;
constexpr int kMissed = 3;

struct Options {
  std::vector<std::string> files, overrides, compared;
  std::string help_key, list;
  int64_t cache_limit = core::Cache::kDefaultLimit;
  bool dry_run = false, force = false, update_expect = false;
};

int print_help(const CLI::App& app, const std::string& key) {
  Spec spec;
  if (key.empty()) fmt::print("{}\nKeys of a configuration:\n", app.help());
  fmt::print("{}", core::help(spec, key));
  return 0;
}

void print_methods() {
  for (const auto& [name, method] : quant::make_methods()) fmt::print("{:<12} {}\n", name, method->summary());
}

void print_transforms() {
  for (const auto& [name, transform] : quant::make_transforms()) fmt::print("{:<12} {}\n", name, transform->summary());
}

void print_strategies() {
  for (const auto& [name, strategy] : replication::make_strategies())
    fmt::print("{:<12} {}\n", name, strategy->summary());
}

void print_models() {
  fmt::print("families: {}\n", core::joined(models::families()));
  for (const std::string& name : core::list_models()) fmt::print("{}\n", name);
}

void print_corpora() {
  for (const std::string& name : core::list_corpora()) fmt::print("{}\n", name);
}

// What packed products run with, the best first.
void print_kernels() {
  for (const quant::kernels::Kernel& kernel : quant::kernels::kernels())
    fmt::print("{:<12} {}\n", kernel.name, kernel.runs_here ? "runs here" : "not on this CPU");
}

void print_keys() {
  Spec spec;
  fmt::print("{}", core::key_table(spec));
}

// What --list knows; without a name it prints all but the keys.
int print_list(const std::string& what) {
  const std::vector<std::pair<std::string, void (*)()>> lists{
      {"methods", print_methods}, {"transforms", print_transforms}, {"strategies", print_strategies},
      {"models", print_models},   {"corpora", print_corpora},       {"kernels", print_kernels},
      {"keys", print_keys}};
  std::vector<std::string> names;
  for (const auto& [name, print] : lists) {
    names.push_back(name);
    if (what == name) return print(), 0;
    if (what.empty() && name != "keys") fmt::print("{}:\n", name), print(), fmt::print("\n");
  }
  core::require(what.empty(), "--list: there is no list of `{}`.{} Lists: {}.", what, core::did_you_mean(what, names),
                core::joined(names));
  return 0;
}

// Threads are a property of the process: the first point decides, and a sweep over them is refused.
void set_threads(const std::vector<std::vector<Point>>& files) {
  const int64_t asked = files.front().front().spec.threads;
  for (const auto& points : files) {
    for (const Point& point : points) {
      core::require(point.spec.threads == asked,
                    "{}: one call computes with one number of threads. Call once per number.",
                    point.spec.where("threads"));
    }
  }
  at::set_num_threads(static_cast<int>(asked > 0 ? asked : core::usable_threads()));
}

// Where results go can be written, and the cache has its place.
void make_room(const std::vector<std::vector<Point>>& files) {
  for (const auto& points : files) {
    core::require_writable_directory(points.front().spec.out);
    core::create_directories(points.front().spec.out + "/.cache");
  }
}

void print_plan(const std::vector<Point>& points, experiments::Inputs& inputs) {
  experiments::WalkCosts walks;  // points share what they rank by
  experiments::TrainingCost training;
  for (const Point& point : points) {
    try {
      experiments::check_point(point.spec, inputs);
    } catch (const replication::NoControl& none) {
      fmt::print("no control  {}  {}\n", experiments::label(point.swept), none.what());
      continue;
    }
    const std::string directory = experiments::run_directory(point.spec, experiments::run_id(point.spec, inputs));
    const experiments::Json results = experiments::finished_results(directory);
    const char* state = results.is_null()                        ? "to run  "
                        : experiments::outdated(results).empty() ? "finished"
                                                                 : "stale   ";
    fmt::print("{}  {}  {}\n", state, directory, experiments::label(point.swept));
    const int64_t width = inputs.model(point.spec.model.path).config.positive("hidden_size");
    walks.add(experiments::cost_of_evidence(point.spec, inputs), width);
    walks.add(experiments::cost_of_experts(point.spec, inputs), width);
    const bool counts = !results.is_null() && experiments::outdated(results).empty();
    training.add(point.spec, inputs, counts ? results : experiments::Json());
  }
  for (const std::string& line : walks.lines()) fmt::print("{}\n", line);
  for (const std::string& line : training.lines()) fmt::print("{}\n", line);
}

// Whether all results are as the file expects; with `update` the file is made to expect them.
bool as_expected(const std::string& file, const std::vector<Point>& points, const experiments::Outcome& outcome,
                 bool update) {
  if (update) {
    for (const auto& line : experiments::update_expectations(file, points, outcome.rows)) fmt::print("{}\n", line);
    return true;
  }
  bool all = true;
  for (size_t i = 0; i < outcome.rows.size(); ++i) {
    if (outcome.rows[i].contains("failed")) continue;
    for (const auto& line : experiments::misses(points[i], outcome.rows[i])) {
      fmt::print(stderr, "{}\n", line);
      all = false;
    }
  }
  return all;
}

int run(const Options& options) {
  core::require(!options.files.empty(),
                "no configuration given. Try ./run_experiment configs/quickstart.yaml, or --help.");
  std::vector<std::vector<Point>> files;
  for (const std::string& file : options.files) files.push_back(experiments::read_points(file, options.overrides));
  set_threads(files);
  experiments::Inputs inputs(files.front().front().spec.out + "/.cache", options.cache_limit);
  for (const auto& points : files) experiments::check_points(points, inputs);
  if (!options.dry_run) {
    make_room(files);
    inputs.remember_tokens();
  }
  int code = 0;
  for (size_t i = 0; i < files.size(); ++i) {
    const std::vector<Point>& points = files[i];
    if (options.dry_run) {
      print_plan(points, inputs);
      continue;
    }
    const Spec& first = points.front().spec;
    spdlog::set_level(first.quiet ? spdlog::level::warn : spdlog::level::info);
    const experiments::Outcome outcome = experiments::run_points(points, inputs, options.force);
    fmt::print("\n{}\n", experiments::make_table(outcome.rows).text());
    if (const auto speed = experiments::latency_table(outcome.rows); !speed.rows.empty())
      fmt::print("{}\n", speed.text());
    if (!outcome.controls.rows.empty()) fmt::print("{}\n", outcome.controls.text());
    for (const auto& row : outcome.rows) {
      if (row.contains("id")) fmt::print("{}/{}/{}\n", first.out, first.name, row["id"].get<std::string>());
    }
    const bool expected = as_expected(options.files[i], points, outcome, options.update_expect);
    if (outcome.failed) code = kFailed;
    if (!expected && code == 0) code = kMissed;
  }
  return code;
}

// The command line's own shortcuts for keys.
void add_override(Options& options, const std::string& key, const std::string& value) {
  options.overrides.push_back(key + "=" + core::to_inline_yaml(core::make_string(value)));
}

int parse_and_run(int argc, char** argv) {
  Options options;
  std::string out, threads, cache_limit;
  bool version = false, quiet = false, no_build = false;
  CLI::App app{
      "One YAML file asks one question about low-bit quantization of a language model; the answer is a table."};
  app.set_help_flag();
  app.add_option("FILE", options.files, "configurations, run one after the other");
  app.add_option("--set", options.overrides,
                 "key=value: overrides the file, e.g. quant.weight.bits=3; any number of times")
      ->allow_extra_args(false);
  app.add_option("--out", out, "directory of all results (key out)");
  app.add_option("--threads", threads, "threads of the computation (key threads)");
  app.add_option("--cache-limit", cache_limit,
                 "size of <out>/.cache, e.g. 20GB (the default): what was used longest ago goes first");
  app.add_flag("--quiet", quiet, "print the table and errors only (key quiet)");
  app.add_flag("--dry-run", options.dry_run, "check everything, print what would run");
  app.add_flag("--force", options.force, "run finished points again");
  app.add_flag("--update-expect", options.update_expect, "make the file's `expect` fit the results, bound by bound");
  const CLI::Option* help =
      app.add_option("--help,-h", options.help_key, "this text, or the meaning of a key: --help quant.weight")
          ->expected(0, 1);
  const CLI::Option* list =
      app.add_option("--list", options.list,
                     "methods, transforms, strategies, models, corpora, kernels, or keys (as Markdown)")
          ->expected(0, 1);
  app.add_option("--compare", options.compared, "two run directories: is B better than A, window by window?")
      ->expected(2);
  app.add_flag("--version", version, "the commit and the libraries");
  app.add_flag("--no-build", no_build, "run what is built; read by the launcher");
  experiments::parsed(app, argc, argv);  // --help is an option of its own
  if (help->count() > 0) return print_help(app, options.help_key);
  if (list->count() > 0) return print_list(options.list);
  if (version) return fmt::print("refrain {} · libtorch {}\n", experiments::commit(), TORCH_VERSION), 0;
  if (!options.compared.empty()) {
    fmt::print("{}", comparison_text(experiments::compare(options.compared[0], options.compared[1])));
    return 0;
  }
  if (!cache_limit.empty()) options.cache_limit = core::parse_size(cache_limit, "--cache-limit");
  core::require(!options.update_expect || options.overrides.empty(),
                "--update-expect: with --set the results are not those of the file. Change the file instead.");
  if (!out.empty()) add_override(options, "out", out);
  if (!threads.empty()) options.overrides.push_back("threads=" + threads);
  if (quiet) options.overrides.push_back("quiet=true");
  return run(options);
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_pattern("%v");
  spdlog::set_error_handler([](const std::string&) {});  // a log on a full disk is no second error
  return experiments::guarded([&] { return parse_and_run(argc, argv); },
                              "interrupted; finished runs are kept, the same command goes on");
}
