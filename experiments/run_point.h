// One point: from a checked configuration to a finished run directory.
#pragma once

#include <string>

#include "experiments/results/results.h"

namespace experiments {

// The name of a run: hash of the identity keys and of the contents of model, tokenizer and texts.
std::string run_id(const Spec& spec, Inputs& inputs);

// <out>/<name>/<id>.
std::string run_directory(const Spec& spec, const std::string& id);

// The results of a finished run, null when there is none.
Json finished_results(const std::string& directory);

// Quantizes and measures, and leaves resolved.yaml, modules.csv, windows.csv, checkpoint/, log.txt and, last,
// results.json in the run directory. Holds the directory's lock meanwhile; a second runner gets an error that says who
// holds it. A directory made for a run that then stops at the user's mistake is removed; an interrupted run leaves what
// it has.
Json run_point(const Point& point, Inputs& inputs);

}  // namespace experiments
