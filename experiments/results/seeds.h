// Runs of one point that differ by their seed alone, and the row that stands for them.
#pragma once

#include <vector>

#include "experiments/results/row.h"

namespace experiments {

// The rows, and behind the last one of each point that several seeds finished a row of their means: of every number of
// what was measured, of `bits` and of `replication`, none where a run has none; and of the seconds. A column that says
// so (Column::deviation_of) has the standard deviation over the seeds instead (n − 1). Full precision is the first
// run's. The swept seed reads "mean ± sd of 3".
std::vector<Row> with_means(const std::vector<Row>& rows);

}  // namespace experiments
