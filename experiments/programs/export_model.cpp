// export_model: writes a model for other programs: a checkpoint of ours, a run directory, or any model that we read.
// Exit codes as of generate.
#include <ATen/Parallel.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>

#include "core/error.h"
#include "core/machine.h"
#include "experiments/programs/program.h"
#include "export/exporter.h"

namespace {

struct Options {
  std::string model;
  std::map<std::string, std::string> paths;  // exporter -> where to
  std::vector<std::string> overrides;
  int64_t threads = 0;
};

void export_model(const Options& options) {
  exports::ExportConfig config;
  core::Node document = core::make_map();
  for (const auto& [name, path] : options.paths) {
    if (!path.empty()) core::assign(document, name + ".path", core::make_string(path));
  }
  for (const std::string& text : options.overrides) {
    auto [path, value] = core::parse_override(text);
    core::assign(document, path, std::move(value));
  }
  core::bind(document, config, "exports");
  const auto asked = config.asked();
  core::require(!asked.empty(), "nothing is asked for. Give a format and where to, e.g. --gguf model.gguf.");
  const exports::ModelToExport model = exports::open_to_export(options.model);
  for (const auto& [name, exporter] : asked) {
    core::require(!exporter->path().empty(), "--{0}: it is missing. Say where to: --{0} {1}.", name,
                  exporter->default_name());
    exports::exported(name, *exporter, model, exporter->path());
  }
}

int parse_and_run(int argc, char** argv) {
  Options options;
  bool no_build = false;
  CLI::App app{"Writes a model for other programs. Whatever can be set is listed in docs/keys.md, under exports."};
  app.add_option("MODEL", options.model, "run directory, checkpoint, Hugging Face directory or GGUF file, or its name")
      ->required();
  for (const auto& [name, exporter] : exports::make_exporters())
    app.add_option("--" + name, options.paths[name], exporter->summary() + ": where to");
  app.add_option("--set", options.overrides, "a key of an exporter, e.g. gguf.allow_refit=true");
  app.add_option("--threads", options.threads, "0: physical cores that this process may use")
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_flag("--no-build", no_build, "run what is built; read by the launcher");
  if (!experiments::parsed(app, argc, argv)) return 0;
  at::set_num_threads(static_cast<int>(options.threads > 0 ? options.threads : core::usable_threads()));
  const auto log = spdlog::stdout_logger_mt("refrain");
  log->set_pattern("%v");
  spdlog::set_default_logger(log);
  export_model(options);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return experiments::guarded([&] { return parse_and_run(argc, argv); }, "interrupted");
}
