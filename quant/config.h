// The `quant` section: which method, on which variables, with which exceptions.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "quant/expert_bits.h"
#include "quant/grids/weight_config.h"
#include "quant/linear/rotation.h"
#include "quant/method.h"
#include "quant/registry.h"

namespace quant {

// Overrides for the modules whose path matches.
struct Rule : core::Section {
  std::string match;
  core::Node weight;      // some keys of quant.weight
  core::Node activation;  // some keys of quant.activation

  void keys(core::Keys& k) override;
};

// Linears of a mixture of experts that decide and do not compute: the router, and the gate of shared experts. They stay
// in full precision unless this or a rule says otherwise; their inputs unless a rule does.
struct RouterConfig : core::Section {
  int64_t bits = WeightConfig::kFullPrecision;

  void keys(core::Keys& k) override;
  void check() const override;
};

struct QuantConfig : core::Section {
  static constexpr const char* kNone = "none";  // leave the model in full precision

  std::string method = "rtn";
  int64_t descent = 0;
  Methods methods = make_methods();  // each with its options
  WeightConfig weight;
  ActivationConfig activation;
  RouterConfig router;
  ExpertBitsConfig expert_bits;
  std::vector<Rule> rules;

  void keys(core::Keys& k) override;
  void check() const override;
  const Method& chosen() const;  // of a method other than none
  bool brings_codes() const;     // the method has codes already (Method::brought)

 private:
  void check_brought() const;
  void check_descent() const;
};

// Inputs that count for the codes of a linear beside those of the first step that runs its block: of the linear at
// `path` in a step of the plan.
struct FurtherInput {
  std::string path;
  int64_t step;
};

// How the codes of one linear become weights.
struct Coding {
  std::shared_ptr<const WeightFormat> format;  // for which the method encodes
  std::shared_ptr<const Refinement> refinement = {};
  std::string codes_of =
      {};  // path of the linear, of an earlier block, whose codes these are; "": the method makes them
  std::vector<ActivationReplica> inputs = {};  // grids that the linear's inputs are quantized on; empty: one
  std::vector<std::string> mean_with = {};     // paths of linears: what is coded is the mean of its weight and theirs
};
using CodingOf = std::function<Coding(const core::Slot& slot, const WeightConfig& weight, uint64_t seed)>;

// The grid that the variables ask for.
Coding grid_coding(const core::Slot& slot, const WeightConfig& weight, uint64_t seed);

// What happens to one linear of the model, or to its embedding.
struct Assignment {
  core::Slot* slot;
  WeightConfig weight;
  std::shared_ptr<const WeightFormat> format;   // null: left in full precision
  std::shared_ptr<const InputQuantizer> input;  // null: the inputs too
  Needs needs = {};                             // of the method, the format and the refinement
  std::shared_ptr<const Refinement> refinement = {};
  bool reads_inputs = false;                      // the method runs the block on its inputs
  std::string codes_of = {};                      // as of Coding
  std::vector<std::string> mean_with = {};        // likewise
  std::shared_ptr<const Rotation> rotation = {};  // of what is coded; null: none
  int64_t descent = 0;                            // as of Target
  std::vector<FurtherInput> further = {};         // whose statistics are added to those of its own inputs
  at::Tensor mean_square = {};                    // [I] of its inputs, known beforehand; undefined: measured
};

// Whether anything has to be known about the inputs of some linear: statistics, a static range, or the inputs.
bool needs_statistics(const std::vector<Assignment>& assignments);

// Applies the rules to every linear of the model's blocks, last match wins, key by key; then to the ends, embedding and
// head, of which only those are listed that a rule names. Needs no tensor. seed: of what formats draw; coding: chooses
// the formats of the blocks. Errors: a rule that matches nothing or gives a key that its module does not read, a group
// size that does not divide, a format that the method does not accept.
std::vector<Assignment> assign(const QuantConfig& config, core::Model& model, uint64_t seed = 0,
                               const CodingOf& coding = grid_coding);

}  // namespace quant
