// The table of speed: what measure.latency found, for every context by itself.
#pragma once

#include "experiments/results/table.h"

namespace experiments {

// One row per run and context: what was swept, bits per weight, time to the first token, tokens per second of the
// prompt and behind it (mean ± sd over repetitions), bytes of weights that a token reads, share of the measured read
// bandwidth at which it reads them, peak memory, size of the tensor files and how often they fit into 16 bits per
// parameter. No rows when no run was timed.
Table latency_table(const std::vector<nlohmann::ordered_json>& results);

}  // namespace experiments
