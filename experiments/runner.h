// Runs the points of one file and keeps the tables: a finished point is not run again, a failed one does not stop the
// others, and one that another process is running is left to it. So several processes can work on one sweep.
#pragma once

#include <vector>

#include "experiments/results/table.h"
#include "experiments/run_point.h"

namespace experiments {

struct Outcome {
  // Results of the points, in order; of a failed point, and of one that another runner still holds: {"swept", "failed":
  // reason}.
  std::vector<Json> rows;
  bool failed = false;  // some point failed; a control that cannot be built is a result and no failure
  Table controls = {};  // replicas against their controls (experiments/results/control_table.h); no rows without
};

// Everything that can be known to be wrong with the points before the first tensor is read. A control that cannot be
// built is no mistake: its row will say why.
void check_points(const std::vector<Point>& points, Inputs& inputs);

// force: run finished points again. Writes <out>/<name>/summary.{csv,md} and appends to <out>/index.csv after each
// point (with measure.latency also latency.{csv,md}), and with controls controls.{csv,md} at the end. A single point's
// error is thrown; in a sweep it is recorded, and only a place that takes nothing more ends it. An interrupt is thrown.
// Finished points are kept in any case.
Outcome run_points(const std::vector<Point>& points, Inputs& inputs, bool force);

}  // namespace experiments
