// Runs the points of one file and keeps the tables: a finished point is not run again, a failed one does not stop the
// others.
#pragma once

#include <vector>

#include "experiments/run_point.h"

namespace experiments {

struct Outcome {
  std::vector<Json> rows;  // results of the points, in order; a failed point: {"swept", "failed": reason}
  bool failed = false;     // some point failed
};

// force: run finished points again. Writes <out>/<name>/summary.{csv,md} and appends to <out>/index.csv after each
// point. A single point's error is thrown; in a sweep it is recorded. An interrupt is thrown, with finished points
// kept.
Outcome run_points(const std::vector<Point>& points, Inputs& inputs, bool force);

}  // namespace experiments
