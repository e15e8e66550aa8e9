// The stages of a run and the versions of their code. A version is kept by hand beside the code and bumped when its
// results change; results made by another version are stale: they are shown as such and made anew.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "experiments/results/results.h"

namespace experiments {

// Name and version of every stage that results.json can list.
const std::vector<std::pair<std::string, int>>& stage_versions();

// Why a results.json is not what this program would find: "quantize was version 1 and is 2 now"; "" when it is.
std::string outdated(const Json& results);

}  // namespace experiments
