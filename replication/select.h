// Which linears a strategy is applied to; the others keep the plain grid. What is chosen are units: single linears, or
// whole blocks.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/model.h"

namespace replication {

// What quantization does to a linear's output on full-precision inputs.
struct OutputError {
  double error = 0;   // tr(ΔHΔᵀ)
  double energy = 0;  // tr(WHWᵀ)

  double relative() const { return energy > 0 ? error / energy : 0; }
};

struct Selection : core::Section {
  std::string unit = "linear", policy = "all", pattern = "*";
  std::vector<std::string> list;
  int64_t every = 2;
  double fraction = 0.25;

  void keys(core::Keys& k) override;
  void check() const override;
  bool by_sensitivity() const { return policy == "sensitivity"; }

  // Paths of the units of a model in its order: "model.layers.3", or its linears.
  std::vector<std::string> units(core::Model& model) const;
  // Those that are chosen. errors: of the model's linears by path, read by policy sensitivity alone; seed: of policy
  // random. Error: a list or a pattern that names nothing, a fraction that is no unit.
  std::set<std::string> chosen_units(core::Model& model, const std::map<std::string, OutputError>& errors,
                                     uint64_t seed) const;
  // The linears in them.
  std::set<std::string> chosen_linears(core::Model& model, const std::map<std::string, OutputError>& errors,
                                       uint64_t seed) const;
  // The blocks that are chosen as a whole, by number.
  std::set<int64_t> chosen_blocks(core::Model& model, const std::map<std::string, OutputError>& errors,
                                  uint64_t seed) const;
  // Of a unit: over its linears, Σ error / Σ energy.
  OutputError error_of(const std::string& unit, const std::map<std::string, OutputError>& errors) const;

 private:
  bool reads(const std::string& key) const;  // whether the policy has a use for it
};

}  // namespace replication
