// What is known of the experts of a model on the calibration text: how many tokens each sees and with which weight, and
// what quantizing it alone does to its outputs. By this experts are selected for replication and given their bits.
// One walk in full precision, kept in the cache.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "experiments/analysis/walk_cost.h"
#include "experiments/inputs/resources.h"

namespace experiments {

inline constexpr int kExpertsVersion = 2;  // bumped by hand when the numbers change

struct Expert {
  std::string path;                  // "model.layers.3.mlp.experts.7"
  int64_t tokens = 0;                // that were sent to it
  double frequency = 0;              // tokens / all tokens; over the experts of a block they sum to top-k
  double gate = 0, gate_square = 0;  // means over its tokens of the weight that the router gives it, and its square
  double energy = 0;                 // mean ‖E(x)‖² over its tokens
  std::map<int64_t, double> errors;  // by bits: mean ‖E(x) − Ê(x)‖² over its tokens
  std::vector<int64_t> together;     // with each expert of its block: tokens that were sent to both
  int64_t bits = 0;                  // of its linears as configured; not kept

  // s_e = frequency · mean gate² · mean squared error of its outputs at the configured bits: its part in the error of
  // the block's output, were the errors of experts independent. 0 in full precision.
  double sensitivity() const;
};

// Whether a run has a use for them.
bool measures_experts(const Spec& spec);

// In the order of the model; none without mixtures.
std::vector<Expert> experts_of(const Spec& spec, Resources& resources, const ModelFiles& files,
                               const core::Windows& text);

// What experts_of() would compute for this run, for --dry-run; nothing where it has no use for it.
std::vector<WalkCost> cost_of_experts(const Spec& spec, Resources& resources, const ModelFiles& files,
                                      const core::Windows& text);

// The same configuration with a rule for every expert, before all others, that gives it its bits.
// text: on which they are measured. Error: a model without experts.
Spec allocated(const Spec& spec, Resources& resources, const ModelFiles& files, const core::Windows* text);

// All that can be known to be wrong with `quant.expert_bits` before anything is measured.
void check_expert_bits(const Spec& spec, core::Model& model);

// experts.csv and coactivation.csv. kl: of those whose KL is known. chosen: experts that replication changes.
std::string experts_csv(const std::vector<Expert>& experts, const std::map<std::string, double>& kl,
                        const std::set<std::string>& chosen);
std::string coactivation_csv(const std::vector<Expert>& experts);

}  // namespace experiments
