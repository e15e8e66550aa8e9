#include "core/io/data_roots.h"

#include <cstdlib>
#include <filesystem>

#include "core/config/nearest.h"

namespace core {

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

bool is_file(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_regular_file(path, error);
}

bool is_directory(const std::string& path) {
  std::error_code error;
  return std::filesystem::is_directory(path, error);
}

std::string home_data() {
  const std::string home = environment("REFRAIN_HOME");
  return home.empty() ? "data" : home + "/data";
}

std::vector<std::string> data_roots() {
  std::vector<std::string> roots = {home_data()};
  if (const std::string data = environment("REFRAIN_DATA"); !data.empty()) roots.push_back(data);
  return roots;
}

std::string fetched_models() {
  const std::string models = environment("REFRAIN_MODELS");
  return models.empty() ? environment("HOME") + "/.cache/refrain/models" : models;
}

std::string known_names(const std::string& name, const std::vector<std::string>& known, const std::string& kind,
                        const std::vector<std::string>& searched) {
  const std::string more = environment("REFRAIN_DATA").empty() ? "Set REFRAIN_DATA to a folder that holds more."
                                                               : "Searched: " + joined(searched) + ".";
  return did_you_mean(name, known) + " Known " + kind + ": " + joined(known) + ". " + more;
}

}  // namespace core
