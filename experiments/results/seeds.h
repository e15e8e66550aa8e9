// Runs of one point that differ by their seed alone, and the row that stands for them.
#pragma once

#include <nlohmann/json.hpp>
#include <vector>

namespace experiments {

// When results[i] is the last run of its point: the finished runs of that point, in order. Otherwise none.
std::vector<nlohmann::ordered_json> seeds_of_point(const std::vector<nlohmann::ordered_json>& results, size_t i);

// The mean over at least two runs of a point: every real number of `quantized` and `bits`, and the seconds.
// `ppl_stderr` becomes the standard deviation of ppl over the seeds (n − 1).
nlohmann::ordered_json mean_over_seeds(const std::vector<nlohmann::ordered_json>& runs);

}  // namespace experiments
