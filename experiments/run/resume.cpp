#include "experiments/run/resume.h"

#include <ATen/Parallel.h>
#include <spdlog/spdlog.h>
#include <torch/version.h>

#include <filesystem>

#include "core/error.h"
#include "core/io/files.h"
#include "core/machine.h"
#include "experiments/inputs/model_files.h"
#include "experiments/run/directories.h"
#include "experiments/run/stages.h"

namespace experiments {

namespace fs = std::filesystem;

namespace {

// What a finished block depends on beside the keys and contents that the run's id stands for, and the threads.
Json beginning(const Spec& spec) {
  Json now = versions_of_blocks();
  now.update({{"libtorch", TORCH_VERSION},
              {"device", device_of(spec).str()},
              {"dtype", c10::toString(dtype_of(spec))},
              {"cpu", core::cpu_name()},
              {"threads", at::get_num_threads()}});
  return now;
}

std::string file_of(const std::string& directory) { return progress_directory(directory) + "/began.json"; }

Json read_beginning(const std::string& directory) {
  const std::string file = file_of(directory);
  return fs::exists(file) ? Json::parse(core::read_file(file), nullptr, /*allow_exceptions=*/false) : Json();
}

// Why the work that lies in the directory cannot be used; empty when it can.
std::string obstacle(const Json& before, const Json& now) {
  if (!before.is_object()) return "its progress cannot be read";
  for (const auto& [key, value] : now.items()) {
    const Json was = before.value(key, Json());
    if (key == "threads" ? !was.is_number_integer() || was.get<int64_t>() < 1 : was != value)
      return fmt::format("{} was {}, and is {} now", key, was.dump(), value.dump());
  }
  return {};
}

void remove(const std::string& path) {
  std::error_code error;
  fs::remove_all(path, error);
  core::require(!error, "{}: cannot be removed: {}. Remove it, or choose another --out.", path, error.message());
}

// Files that a killed process had not yet given their names. The caller holds the directory's lock.
void remove_half_written(const std::string& directory) {
  for (const char* part : {"", "/checkpoint", "/untrained", "/progress"}) {
    std::error_code none;
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory + part, none)) {
      const std::string name = entry.path().filename();
      if (name.starts_with(".") && name.ends_with(".tmp")) found.push_back(entry.path());
    }
    for (const std::string& file : found) remove(file);
  }
}

int64_t finished_blocks(const std::string& directory) {
  int64_t count = 0;
  std::error_code none;
  for (const auto& entry : fs::directory_iterator(progress_directory(directory), none))
    count += entry.path().filename().string().starts_with("block-");
  return count;
}

}  // namespace

int64_t resume(const std::string& directory, const Spec& spec) {
  remove_half_written(directory);
  const Json now = beginning(spec);
  if (!fs::exists(directory + "/results.json") && fs::exists(progress_directory(directory))) {
    const Json before = read_beginning(directory);
    const std::string reason = obstacle(before, now);
    if (reason.empty()) {
      const auto threads = before["threads"].get<int64_t>();
      spdlog::info("goes on with an interrupted run: {} blocks are finished, {} threads as it began",
                   finished_blocks(directory), threads);
      return threads;
    }
    spdlog::info("an interrupted run starts anew: {}", reason);
  }
  for (const char* stale : {"/results.json", "/checkpoint", "/untrained", "/progress"}) remove(directory + stale);
  core::create_directories(progress_directory(directory));
  core::write_atomically(file_of(directory), now.dump(2) + "\n");
  return at::get_num_threads();
}

bool has_progress(const std::string& directory) { return finished_blocks(directory) > 0; }

Threads::Threads(int64_t count) : before_(at::get_num_threads()) { at::set_num_threads(static_cast<int>(count)); }
Threads::~Threads() { at::set_num_threads(static_cast<int>(before_)); }

}  // namespace experiments
