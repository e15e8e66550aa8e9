// What a run writes for other programs: the section `exports`.
#pragma once

#include <vector>

#include "experiments/run/run.h"

namespace experiments {

// Refuses runs that would write over each other.
void check_export_paths(const std::vector<Run>& runs);

// Writes them for a finished run, from its checkpoint, unless this run has written them there before
// (<exporter>.path in its directory says where to, and how).
void write_exports(const Run& run);

}  // namespace experiments
