// One resolved run: from nothing, or from where it was interrupted, to a finished run directory.
#pragma once

#include "experiments/results/row.h"
#include "experiments/run/run.h"

namespace experiments {

struct Ran {
  Row row;
  bool now;  // by this call, as opposed to before or by another runner
};

// Quantizes and measures, unless that is finished (and not stale, and not forced), and leaves resolved.yaml,
// modules.csv, files of items, checkpoint/, log.txt and, last, results.json in the run directory. Holds the directory's
// lock meanwhile; a second runner gets HeldElsewhere, which says who holds it. A run that was killed, interrupted
// or out of disk goes on behind its last finished block. A directory made for a run that then stops at the user's
// mistake is removed unless it holds a finished block. The run is identified.
Ran run_point(const Run& run, Resources& resources, bool force);

}  // namespace experiments
