// Holds results against what the configuration expects, and rewrites the expectations of a file when they were wrong.
#pragma once

#include <string>
#include <vector>

#include "experiments/config/points.h"
#include "experiments/results/row.h"

namespace experiments {

// One line for every bound that a run's results miss:
// "configs/a.yaml:7: expect.quantized.perplexity[0].ppl.max: the result is 22.1, above 21.4 (quant.weight.bits=2)."
std::vector<std::string> misses(const Point& point, const Row& row);

// Rewrites every bound that some run missed, so that all runs pass; everything else in the file stays as it is. One
// line per change. rows: results of the points, in their order. Errors: a bound that does not come from the file,
// points that need different values, a path that results.json lacks.
std::vector<std::string> update_expectations(const std::string& file, const std::vector<Point>& points,
                                             const std::vector<Row>& rows);

}  // namespace experiments
