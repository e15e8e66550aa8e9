#include "experiments/run/exports.h"

#include <filesystem>
#include <map>
#include <sstream>

#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/io/files.h"
#include "experiments/run/directories.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

// Where an exporter of the run writes to.
std::string path_of(const Run& run, const exports::Exporter& exporter) {
  const std::string given = exporter.path();
  return given.empty() ? run.directory + "/" + exporter.default_name() : given;
}

std::string options_of(const Run& run, const std::string& exporter) {
  Spec copy = run.spec();
  return core::to_yaml(*core::to_node(copy.exports).find(exporter));
}

// What stands in a note before the names of the files that were written, one a line.
constexpr const char* kFiles = "files:\n";

// They lie in the directory of the run, wherever that is now.
void remove_noted(const std::string& note, const std::string& directory) {
  const size_t at = note.find(kFiles);
  if (at == std::string::npos) return;
  std::istringstream lines(note.substr(at + std::string_view(kFiles).size()));
  for (std::string file; std::getline(lines, file);) fs::remove(fs::path(directory) / fs::path(file).filename());
}

}  // namespace

void check_export_paths(const std::vector<Run>& runs) {
  std::map<std::string, size_t> writers;
  for (const Run& run : runs) {
    for (const auto& [name, exporter] : run.spec().exports.asked()) {
      const std::string path = exporter->path();
      core::require(path.empty() || ++writers[path] == 1,
                    "{}: several runs would write {}. Leave path out: each then writes into its own directory.",
                    exporter->where("path"), path);
    }
  }
}

void write_exports(const Run& run) {
  const auto asked = run.spec().exports.asked();
  if (asked.empty()) return;
  std::optional<exports::ModelToExport> model;
  for (const auto& [name, exporter] : asked) {
    const std::string path = path_of(run, *exporter), note = run.directory + "/" + name + ".path";
    const std::string asked_for = path + "\n" + options_of(run, name) + kFiles;
    const std::string noted = core::is_file(note) ? core::read_file(note) : "";
    const bool newer = noted.starts_with(asked_for) &&
                       fs::last_write_time(note) >= fs::last_write_time(run.directory + "/results.json");
    if (newer && core::is_file(exports::table_beside(path))) continue;
    if (!model) {
      const std::string checkpoint = checkpoint_directory(run.directory);
      core::require(!run.quantizes() || fs::exists(checkpoint),
                    "{}: its checkpoint is gone, and exports are made from it. Run it again with --force.",
                    run.directory);
      model = exports::open_to_export(run.quantizes() ? checkpoint : run.files->path);
    }
    if (exporter->path().empty() && !noted.empty()) {  // of the run before it was made anew, or asked otherwise
      fs::remove_all(path);
      remove_noted(noted, run.directory);
    }
    const exports::Written written = exports::exported(name, *exporter, *model, path);
    std::string files;  // of the directory of the run
    for (const std::string& file : written.files) {
      if (exporter->path().empty() && fs::path(file).parent_path() == fs::path(run.directory))
        files += fs::path(file).filename().string() + "\n";
    }
    core::write_atomically(note, asked_for + files);
  }
}

}  // namespace experiments
