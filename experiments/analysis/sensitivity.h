// What quantization does to the output of every linear: by this `replication.select` ranks its units, controls mix
// their levels, and a replica is measured against a single one. With metric: kl, also what quantizing one unit alone
// does to what the model says.
#pragma once

#include <string>
#include <vector>

#include "experiments/analysis/walk_cost.h"
#include "experiments/inputs/resources.h"
#include "quant/stage/quantize.h"
#include "replication/select.h"

namespace experiments {

inline constexpr int kSensitivityVersion = 3;  // bumped by hand when the numbers change

// Of the linears whose errors are known.
replication::OutputErrors errors_of(const std::vector<quant::ModuleReport>& reports);

// Errors of the single replica of this run (experiments/inputs/assignments.h) under its own calibration and transforms:
// one walk over the calibration text, or from the cache.
replication::OutputErrors single_errors(const Spec& spec, Resources& resources, const ModelFiles& files,
                                        const core::Windows& text);
// A run without replication has measured them on its way: keeps them for the replicas that stand beside it.
void keep_single_errors(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows& text,
                        const std::vector<quant::ModuleReport>& reports);

// What the selection and the controls of this run rank by, on full-precision inputs, from the cache when it was
// measured before.
replication::RankingStatistics ranking_statistics(const Spec& spec, Resources& resources, const ModelFiles& files,
                                                  const core::Windows& text);

// What ranking_statistics() would compute of linears and blocks, for --dry-run; experts: cost_of_experts.
std::vector<WalkCost> cost_of_ranking(const Spec& spec, Resources& resources, const ModelFiles& files,
                                      const core::Windows& text);

// sensitivity.csv: every unit that can be selected, most sensitive first, and whether it is.
std::string sensitivity_csv(const replication::Selection& select, core::Model& model,
                            const replication::RankingStatistics& statistics, const std::set<std::string>& chosen);

}  // namespace experiments
