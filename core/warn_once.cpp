#include "core/warn_once.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <filesystem>
#include <iterator>
#include <mutex>

namespace core {

namespace {

struct Logged {
  std::mutex mutex;
  std::vector<std::string> lines;
};

Logged& logged() {
  static Logged all;
  return all;
}

}  // namespace

void warn_once(const std::string& line) {
  Logged& all = logged();
  const std::lock_guard lock(all.mutex);
  if (std::count(all.lines.begin(), all.lines.end(), line) > 0) return;
  all.lines.push_back(line);
  spdlog::warn("{}", line);
}

std::vector<std::string> warnings_about(const std::string& model) {
  Logged& all = logged();
  const std::lock_guard lock(all.mutex);
  const bool is_folder = std::filesystem::is_directory(model);
  const std::string start = is_folder ? (std::filesystem::path(model) / "").string() : model + ":";
  std::vector<std::string> found;
  std::copy_if(all.lines.begin(), all.lines.end(), std::back_inserter(found),
               [&](const std::string& line) { return line.starts_with(start); });
  return found;
}

}  // namespace core
