// Which linears a strategy is applied to; the others keep the plain grid. What is chosen are units: single linears,
// experts of mixtures, or whole blocks.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/model.h"

namespace replication {

// What is chosen as a whole: a linear, an expert or a block.
struct Unit {
  std::string path;               // "model.layers.3", "model.layers.3.mlp.experts.7", or that of a linear
  int64_t block = 0;              // in which it stands
  std::set<std::string> linears;  // paths of its linears
};

std::vector<std::string> paths_of(const std::vector<Unit>& units);

// What quantization does to a linear's output.
struct OutputError {
  double error = 0;   // tr(ΔHΔᵀ)
  double energy = 0;  // tr(WHWᵀ)

  double relative() const { return energy > 0 ? error / energy : 0; }
};

using OutputErrors = std::map<std::string, OutputError>;  // by path of the linear

// What is known of a model when units are chosen.
struct RankingStatistics {
  OutputErrors errors = {};                        // on full-precision inputs; read by policy sensitivity
  std::map<std::string, double> kl = {};           // of the candidates, by unit, nats per token; read by metric kl
  std::map<std::string, int64_t> extra_bits = {};  // of every linear: what the strategy stores beyond the plain grid
  int64_t covered = 0;                             // weights of all linears that have codes
  // Of every expert, by path: what quantizing it does to the output of its block, and its share of the tokens.
  std::map<std::string, double> expert_error = {}, expert_frequency = {};
};

struct Selection : core::Section {
  std::string unit = "linear", policy = "all", pattern = "*", metric = "output_error";
  std::vector<std::string> list;
  int64_t every = 2, candidates = 16;
  double fraction = 0.25, budget = 0;

  void keys(core::Keys& k) override;
  void check() const override;
  bool by_sensitivity() const { return policy == "sensitivity"; }
  bool by_kl() const { return by_sensitivity() && metric == "kl"; }
  // Whether units have to be measured before they can be chosen.
  bool is_ranked() const { return by_sensitivity() || policy == "frequency"; }
  bool of_experts() const { return unit == "expert"; }
  bool has_budget() const { return given("budget"); }

  // The units of a model in its order.
  std::vector<Unit> units(core::Model& model) const;
  // All units, most sensitive first: by output error (of experts: of their blocks), or with metric kl the candidates by
  // KL and the others behind them. By frequency: those that most tokens are sent to.
  std::vector<Unit> ranked(core::Model& model, const RankingStatistics& evidence) const;
  // The units whose KL is to be measured: the first `candidates` by output error.
  std::vector<Unit> kl_candidates(core::Model& model, const OutputErrors& errors) const;
  // Those that are chosen; seed: of policy random. Error: a list or a pattern that names nothing, a fraction that is no
  // unit, a budget that no unit fits into or that the named ones exceed.
  std::vector<Unit> chosen_units(core::Model& model, const RankingStatistics& evidence, uint64_t seed) const;
  // All units in an order drawn from the seed.
  std::vector<Unit> drawn(core::Model& model, uint64_t seed) const;
  std::set<std::string> chosen_linears(core::Model& model, const RankingStatistics& evidence, uint64_t seed) const {
    return linears_of(chosen_units(model, evidence, seed));
  }
  // Error when the model has no unit, or the budget holds none, however they are ranked.
  void require_room(core::Model& model, const RankingStatistics& evidence) const;
  // Σ error and Σ energy over the linears of a unit.
  static OutputError error_of(const std::set<std::string>& linears, const OutputErrors& errors);
  // Paths of the linears in units.
  static std::set<std::string> linears_of(const std::vector<Unit>& units);

 private:
  bool reads(const std::string& key) const;  // whether the policy has a use for it
  std::vector<Unit> first_of(std::vector<Unit> order, const RankingStatistics& evidence) const;
  std::vector<Unit> named(const std::vector<Unit>& all) const;
};

}  // namespace replication
