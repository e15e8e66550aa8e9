// Runs of one point that differ by their seed alone, and the row that stands for them.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

namespace experiments {

// The runs, and behind the last one of each point that several seeds finished a row of their means: every real number
// of `quantized` and `bits`, and the seconds. Its `ppl_stderr` is the standard deviation of ppl over the seeds (n − 1),
// its swept seed reads "mean ± sd of 3".
std::vector<nlohmann::ordered_json> with_means(const std::vector<nlohmann::ordered_json>& runs);

}  // namespace experiments
