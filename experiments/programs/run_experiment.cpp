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
#include "core/io/model_path.h"
#include "core/io/size.h"
#include "core/machine.h"
#include "core/text/corpus.h"
#include "experiments/analysis/experts.h"
#include "experiments/analysis/sensitivity.h"
#include "experiments/analysis/training_cost.h"
#include "experiments/measure/task_table.h"
#include "experiments/programs/program.h"
#include "experiments/results/check_expect.h"
#include "experiments/results/compare.h"
#include "experiments/results/table.h"
#include "experiments/run/runner.h"
#include "experiments/run/stages.h"
#include "experiments/run/version.h"
#include "models/registry.h"
#include "quant/kernels/product.h"
#include "replication/mix.h"

namespace {

using experiments::Experiment;
using experiments::Point;
using experiments::Run;
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

void print_tasks() {
  for (const experiments::Task& task : experiments::task_table()) fmt::print("{:<14} {}\n", task.name, task.help);
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

// What --list knows.
const std::vector<std::pair<std::string, void (*)()>>& lists() {
  static const std::vector<std::pair<std::string, void (*)()>> all{
      {"methods", print_methods},       {"transforms", print_transforms},
      {"strategies", print_strategies}, {"models", print_models},
      {"corpora", print_corpora},       {"tasks", print_tasks},
      {"kernels", print_kernels},       {"keys", print_keys}};
  return all;
}

std::vector<std::string> names_of_lists() {
  std::vector<std::string> names;
  for (const auto& [name, print] : lists()) names.push_back(name);
  return names;
}

// Without a name all are printed but the keys.
int print_list(const std::string& what) {
  for (const auto& [name, print] : lists()) {
    if (what == name) return print(), 0;
    if (what.empty() && name != "keys") fmt::print("{}:\n", name), print(), fmt::print("\n");
  }
  core::require(what.empty(), "--list: there is no list of `{}`.{} Lists: {}.", what,
                core::did_you_mean(what, names_of_lists()), core::joined(names_of_lists()));
  return 0;
}

using Files = std::vector<std::vector<Point>>;  // the points of each file of the command line

// Threads are a property of the process: the first point decides, and a sweep over them is refused.
void set_threads(const Files& files) {
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
void make_room(const std::vector<Experiment>& experiments) {
  for (const Experiment& experiment : experiments) {
    const std::string& out = experiment.runs.front().spec().out;
    core::require_writable_directory(out);
    core::create_directories(out + "/.cache");
  }
}

// "finished", "stale" or "to run".
const char* state_of(const std::optional<experiments::Row>& row) {
  if (!row) return "to run  ";
  return experiments::outdated(*row).empty() ? "finished" : "stale   ";
}

void print_plan(std::vector<Run>& runs, experiments::Resources& resources) {
  experiments::WalkCosts walks;  // points share what they rank by
  experiments::TrainingCost training;
  for (Run& run : runs) {
    if (!run.no_control.empty()) {
      fmt::print("no control  {}  {}\n", experiments::label(run.point.swept), run.no_control);
      continue;
    }
    experiments::identify(run, resources);
    std::optional<experiments::Row> row = experiments::finished_results(run.directory);
    fmt::print("{}  {}  {}\n", state_of(row), run.directory, experiments::label(run.point.swept));
    if (run.calibration != nullptr) {
      walks.add(experiments::cost_of_ranking(run.spec(), resources, *run.files, *run.calibration), run.shape.width);
      walks.add(experiments::cost_of_experts(run.spec(), resources, *run.files, *run.calibration), run.shape.width);
    }
    if (row && !experiments::outdated(*row).empty()) row.reset();
    if (run.training != nullptr) training.add(run.spec(), *run.files, *run.training, run.plan, row);
  }
  for (const std::string& line : walks.lines()) fmt::print("{}\n", line);
  for (const std::string& line : training.lines()) fmt::print("{}\n", line);
}

// Whether all results are as the file expects; with `update` the file is made to expect them.
bool as_expected(const std::string& file, const experiments::Outcome& outcome, bool update) {
  if (update) {
    for (const auto& line : experiments::update_expectations(file, outcome.points, outcome.rows))
      fmt::print("{}\n", line);
    return true;
  }
  bool all = true;
  for (size_t i = 0; i < outcome.rows.size(); ++i) {
    if (!outcome.rows[i].finished()) continue;
    for (const auto& line : experiments::misses(outcome.points[i], outcome.rows[i])) {
      fmt::print(stderr, "{}\n", line);
      all = false;
    }
  }
  return all;
}

void print_tables(const experiments::Outcome& outcome) {
  fmt::print("\n{}\n", experiments::make_table(outcome.rows).text());
  for (const auto& [name, table] : experiments::detail_tables(outcome.rows)) fmt::print("{}\n", table.text());
  if (!outcome.controls.rows.empty()) fmt::print("{}\n", outcome.controls.text());
  const Spec& first = outcome.points.front().spec;
  for (const experiments::Row& row : outcome.rows) {
    if (row.finished()) fmt::print("{}/{}/{}\n", first.out, first.name, row.id());
  }
}

int run(const Options& options) {
  core::require(!options.files.empty(),
                "no configuration given. Try ./run_experiment configs/quickstart.yaml, or --help.");
  Files files;
  for (const std::string& file : options.files) files.push_back(experiments::read_points(file, options.overrides));
  set_threads(files);
  experiments::Resources resources(files.front().front().spec.out + "/.cache", options.cache_limit);
  std::vector<Experiment> opened;
  for (auto& points : files)
    opened.push_back(
        experiments::open_experiment(std::make_unique<experiments::ListedPoints>(std::move(points)), resources));
  if (!options.dry_run) {
    make_room(opened);
    resources.remember_tokens();
  }
  int code = 0;
  for (size_t i = 0; i < opened.size(); ++i) {
    if (options.dry_run) {
      print_plan(opened[i].runs, resources);
      continue;
    }
    spdlog::set_level(opened[i].runs.front().spec().quiet ? spdlog::level::warn : spdlog::level::info);
    const experiments::Outcome outcome = experiments::run_experiment(std::move(opened[i]), resources, options.force);
    print_tables(outcome);
    const bool expected = as_expected(options.files[i], outcome, options.update_expect);
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
                     core::joined(names_of_lists()) + " (as Markdown); without a name all but the last")
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
