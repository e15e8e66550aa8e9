// One point: from a checked configuration to a finished run directory.
#pragma once

#include <string>

#include "experiments/results/results.h"

namespace experiments {

// The name of a run: hash of the identity keys and of the contents of model, tokenizer and texts.
std::string run_id(const Spec& spec, Inputs& inputs);

// <out>/<name>/<id>.
std::string run_directory(const Spec& spec, const std::string& id);

// The results of a finished run, stale or not (experiments/stages.h); null when there are none.
Json finished_results(const std::string& directory);

struct Ran {
  Json results;
  bool now;  // by this call, as opposed to before or by another runner
};

// Quantizes and measures, unless that is finished (and not stale, and not forced), and leaves resolved.yaml,
// modules.csv, windows.csv, checkpoint/, log.txt and, last, results.json in the run directory. Holds the directory's
// lock meanwhile; a second runner gets HeldElsewhere, which says who holds it. A run that was killed, interrupted
// or out of disk goes on behind its last finished block. A directory made for a run that then stops at the user's
// mistake is removed unless it holds a finished block.
Ran run_point(const Point& point, Inputs& inputs, bool force);

}  // namespace experiments
