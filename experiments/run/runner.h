// Runs the points of one file and keeps the tables: a finished point is not run again, a failed one does not stop the
// others, and one that another process is running is left to it. So several processes can work on one sweep.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "experiments/results/table.h"
#include "experiments/run/run.h"

namespace experiments {

// The points of one file, those of its first generation resolved.
struct Experiment {
  std::unique_ptr<PointSource> source;
  std::vector<Run> runs;
};

// Resolves all points of a file before anything is computed. They are identified when they run (or by identify()).
Experiment open_experiment(std::unique_ptr<PointSource> source, Resources& resources);
Experiment open_experiment(const std::string& file, const std::vector<std::string>& overrides, Resources& resources);

struct Outcome {
  // Of the points, in order: their results, or why there are none.
  std::vector<Row> rows;
  std::vector<Point> points;
  bool failed = false;  // some point failed; a control that cannot be built is a result and no failure
  Table controls = {};  // replicas against their controls (experiments/results/control_table.h); no rows without
};

// force: run finished points again. Writes <out>/<name>/summary.{csv,md} and the tables of details of the measures
// (latency.{csv,md}) and appends to <out>/index.csv after each point, and with controls controls.{csv,md} at the end. A
// single point's error is thrown; in a sweep it is recorded, and only a place that takes nothing more ends it. An
// interrupt is thrown. Finished points are kept in any case. The source is asked for further points until it has none.
Outcome run_experiment(Experiment experiment, Resources& resources, bool force);

}  // namespace experiments
