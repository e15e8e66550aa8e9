// The full-precision model, measured once: every result stands beside it. Kept in <out>/.cache under a key that names
// all that the numbers depend on, so that no sweep point and no later run measures it again, and no stale number is
// ever read.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "experiments/run/run.h"

namespace experiments {

inline constexpr int kBaselineVersion = 4;  // bumped by hand when what is kept changes; numbers: Measure::version

// What one measurement found. The files that it kept stay in the cache as long as they are in use.
struct MeasuredInFull {
  Found found;
  std::shared_ptr<const core::CacheEntry> kept;
};

struct Baseline {
  std::vector<std::optional<MeasuredInFull>> measurements;  // those of the run; none: not of full precision
  bool cached = true;                                       // nothing had to be computed

  // What measuring another model may know of measurement i; none where it was not measured.
  std::optional<OfFullPrecision> of(size_t i, const core::Weights& weights) const;
};

Baseline baseline(const Run& run, Resources& resources);

}  // namespace experiments
