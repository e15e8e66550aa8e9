// The folders in which texts, shapes and models are found by name.
#pragma once

#include <string>
#include <vector>

namespace core {

// Of an environment variable; "" when it is not set.
std::string environment(const char* name);

bool is_file(const std::string& path);
bool is_directory(const std::string& path);

// `$REFRAIN_HOME/data`; REFRAIN_HOME defaults to the working directory.
std::string home_data();

// home_data(), then `$REFRAIN_DATA` if it is set; they need not exist.
std::vector<std::string> data_roots();

// Where tools/get_model puts models: `$REFRAIN_MODELS`, else `~/.cache/refrain/models`.
std::string fetched_models();

// What to say of a name that was not found, after "<name>: ...": a name that is near, all known ones, where they were
// sought. kind: "corpora".
std::string known_names(const std::string& name, const std::vector<std::string>& known, const std::string& kind,
                        const std::vector<std::string>& searched);

}  // namespace core
