// Warnings about a model. A run builds its model several times, and a sweep has many runs.
#pragma once

#include <string>
#include <vector>

namespace core {

// Logs the line as a warning, unless this process has logged the very same line before. It starts with the file.
void warn_once(const std::string& line);

// What has been logged so of the files in a folder, or of one file, for the log of a run that begins after it.
std::vector<std::string> warnings_about(const std::string& model);

}  // namespace core
