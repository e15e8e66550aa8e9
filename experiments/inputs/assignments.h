// What happens to each linear of a model: the sections quant and replication together.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "core/text/windows.h"
#include "experiments/config/spec.h"
#include "quant/stage/quantize.h"
#include "replication/config.h"

namespace experiments {

// The run that a replica is measured against: the same without its strategy.
Spec single_of(const Spec& spec);

// How targets are corrected where assignments ask for it.
quant::Correction correction_of(const Spec& spec);

// The file that calibration.imatrix names. Error: there is none.
std::string imatrix_file(const Spec& spec);

// How the inputs of linears are measured. text: the calibration text, null: none.
quant::Calibration calibration_of(const Spec& spec, const core::Windows* text);

// A strategy of whole blocks makes the model follow its plan. statistics: where the selection or a control ranks
// linears by sensitivity; null: it is not measured yet, and a strategy is assigned as if all linears were selected.
// Errors: everything that can be known to be wrong by then; replication::NoControl for a control that cannot be built.
// A linear that replication changes gets its Hessian, which efficiency() needs; with calibration.targets: output all
// that are coded get what their targets need.
std::vector<quant::Assignment> assignments(const Spec& spec, core::Model& model,
                                           const replication::RankingStatistics* statistics = nullptr);

// The same for a model that stays in full precision: nothing is assigned.
void follow_plan(const Spec& spec, core::Model& model);

// What replicas of blocks must have of their own before training can tell them apart; with scope: block it reaches
// those that run right behind their block.
replication::OwnParameters own_parameters_of_replicas(const Spec& spec, const core::Plan& plan);

// What replication stores beyond the single replica: in the linears that it changes, and beside the blocks that it runs
// again.
struct Replaced {
  std::set<std::string> paths;  // of linears that decode otherwise
  int64_t extra_bits = 0;       // parameters as they are after training, codes of others not counted
  int64_t weights = 0;          // of these linears and blocks

  double extra_per_weight() const { return static_cast<double>(extra_bits) / static_cast<double>(weights); }
};

// assigned: what assignments() gave for this spec.
Replaced replaced(const Spec& spec, core::Model& model, const std::vector<quant::Assignment>& assigned);

}  // namespace experiments
