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

// What quantization does to a linear's output.
struct OutputError {
  double error = 0;   // tr(ΔHΔᵀ)
  double energy = 0;  // tr(WHWᵀ)

  double relative() const { return energy > 0 ? error / energy : 0; }
};

using OutputErrors = std::map<std::string, OutputError>;  // by path of the linear

// What is known of a model when units are chosen.
struct Evidence {
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

  // Paths of the units of a model in its order: "model.layers.3", "model.layers.3.mlp.experts.7", or its linears.
  std::vector<std::string> units(core::Model& model) const;
  // All units, most sensitive first: by output error (of experts: of their blocks), or with metric kl the candidates by
  // KL and the others behind them. By frequency: those that most tokens are sent to.
  std::vector<std::string> ranked(core::Model& model, const Evidence& evidence) const;
  // The units whose KL is to be measured: the first `candidates` by output error.
  std::vector<std::string> kl_candidates(core::Model& model, const OutputErrors& errors) const;
  // Those that are chosen; seed: of policy random. Error: a list or a pattern that names nothing, a fraction that is no
  // unit, a budget that no unit fits into or that the named ones exceed.
  std::set<std::string> chosen_units(core::Model& model, const Evidence& evidence, uint64_t seed) const;
  // All units in an order drawn from the seed.
  std::vector<std::string> drawn(core::Model& model, uint64_t seed) const;
  // The linears in units.
  std::set<std::string> linears_of(core::Model& model, const std::set<std::string>& units) const;
  std::set<std::string> chosen_linears(core::Model& model, const Evidence& evidence, uint64_t seed) const {
    return linears_of(model, chosen_units(model, evidence, seed));
  }
  // Error when the model has no unit, or the budget holds none, however they are ranked.
  void require_room(core::Model& model, const Evidence& evidence) const;
  // Of a unit: over its linears, Σ error / Σ energy.
  static OutputError error_of(const std::string& unit, const OutputErrors& errors);

 private:
  bool reads(const std::string& key) const;  // whether the policy has a use for it
  std::set<std::string> first_of(const std::vector<std::string>& order, const Evidence& evidence) const;
  std::set<std::string> named(const std::vector<std::string>& all) const;
};

// Whether a linear is the unit, or in the expert or block that is.
bool is_inside(const std::string& linear, const std::string& unit);

}  // namespace replication
