// Finished runs that differ by nothing but their seed.
#pragma once

#include <map>
#include <string>

namespace experiments {

// Seed -> run directory: the run itself, and those beside it (<out>/<name>/*) with the same configuration, inputs and
// stage versions. Error when `directory` holds no finished run.
std::map<int64_t, std::string> seed_set(const std::string& directory);

}  // namespace experiments
