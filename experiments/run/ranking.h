// The second step of a run: what has to be measured before linears, experts or blocks can be chosen, and the choice.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "experiments/analysis/experts.h"
#include "experiments/inputs/assignments.h"
#include "experiments/run/run.h"

namespace experiments {

// What happens to every linear of the model, fixed once.
struct Ranking {
  Spec spec;                           // as configured, with the bits of each expert where they are chosen
  std::shared_ptr<core::Model> model;  // without weights; follows the plan of the run, and its slots are assigned
  std::vector<quant::Assignment> assigned = {};
  Replaced replaced = {};  // by replication
  std::optional<replication::RankingStatistics> statistics =
      {};                            // that units were selected by; none: nothing was ranked
  std::vector<Expert> experts = {};  // empty: the configuration has no use for them
};

// Walks over the calibration text where the configuration asks for a ranking or for bits of experts; their results come
// from the cache when they were measured before. The run quantizes.
Ranking rank(const Run& run, Resources& resources);

// sensitivity.csv, experts.csv and coactivation.csv, where there is something to tell.
void write_ranking(const Ranking& ranking, const std::string& directory);

}  // namespace experiments
