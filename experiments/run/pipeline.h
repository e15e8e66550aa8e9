// The stages of a run in their order: the one place that shows them.
#pragma once

#include "experiments/run/record.h"
#include "experiments/run/run.h"

namespace experiments {

// Computes a run in its directory, which leaves checkpoint/ and what ranks units there.
RunRecord compute(const Run& run, Resources& resources);

}  // namespace experiments
