#include "experiments/assignments.h"

#include <algorithm>

#include "replication/mix.h"

namespace experiments {

namespace {

using Assigned = std::vector<quant::Assignment>;
using replication::ReplicationConfig;

replication::Shape shape_of(const core::Slot& slot) { return {slot.out_features(), slot.in_features()}; }

int64_t weights_of(const core::Slot& slot) { return slot.out_features() * slot.in_features(); }

const quant::Decoder& last_decoder(const quant::Assignment& a) {
  return replication::last_decoder({a.decoder, a.refinement});
}

int64_t stored_bits(const quant::Assignment& a) { return replication::stored_bits(last_decoder(a), shape_of(*a.slot)); }

// A linear of a block that has codes; embedding and head are nobody's replica.
bool is_coded(const quant::Assignment& a) {
  return a.decoder != nullptr && a.slot->role() != core::Role::embed_tokens && a.slot->role() != core::Role::lm_head;
}

bool codes_alike(const quant::Decoder& a, const quant::Decoder& b) {
  quant::WeightConfig of_a = a.config(), of_b = b.config();
  return a.name() == b.name() && core::to_node(of_a) == core::to_node(of_b) && a.replication() == b.replication();
}

// What is known before a selection: what the strategy would add to every linear.
replication::Evidence with_bits(replication::Evidence evidence, const Assigned& single, const Assigned& replicated) {
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    evidence.extra_bits[single[i].slot->path()] = stored_bits(replicated[i]) - stored_bits(single[i]);
    evidence.covered += weights_of(*single[i].slot);
  }
  return evidence;
}

// As many units as the replica has, drawn anew.
std::set<std::string> drawn_linears(const ReplicationConfig& config, core::Model& model,
                                    const std::set<std::string>& chosen) {
  std::vector<std::string> order = config.select.drawn(model, static_cast<uint64_t>(config.draw));
  if (chosen.size() == order.size())
    throw replication::NoControl("random_selection: the replica selects every unit, so another choice is the same one");
  order.resize(chosen.size());
  return config.select.linears_of(model, {order.begin(), order.end()});
}

// Whether the control has a say in what a linear stores. changed: the replica changes it.
bool may_mix(const std::string& control, const std::string& path, bool changed) {
  if (control == ReplicationConfig::kMoreBitsSelected) return changed;
  if (control != ReplicationConfig::kMoreBitsAttention) return true;
  return path.find(".self_attn.") != std::string::npos || path.find(".shared_expert") != std::string::npos;
}

// Whether the replica does something else to a linear than a plain grid.
bool changes(const quant::Assignment& single, const quant::Assignment& replica) {
  return replica.refinement != nullptr || !codes_alike(last_decoder(replica), last_decoder(single));
}

// The control of equal bits in place of `replica`.
Assigned mixed(const Spec& spec, core::Model& model, const Spec& single_spec, const Assigned& single,
               const Assigned& replica, const replication::Evidence* evidence) {
  std::vector<replication::Mixed> linears;
  int64_t stored = 0, target = 0;  // by the replica; of that, by what the control mixes
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    const core::Slot* slot = single[i].slot;
    const int64_t bits = stored_bits(replica[i]), extra = bits - stored_bits(single[i]);
    stored += bits;
    const bool mixes = may_mix(spec.replication.control, slot->path(), changes(single[i], replica[i]));
    target += mixes ? bits : extra;
    if (!mixes) continue;
    const double sensitivity =
        evidence == nullptr ? 0 : replication::Selection::error_of(slot->path(), evidence->errors).relative();
    linears.push_back({slot, single[i].decoder->config(), sensitivity});
  }
  if (linears.empty()) throw replication::NoControl(spec.replication.control + ": the model has no such linears");
  const auto seed = static_cast<uint64_t>(spec.seed);
  const std::shared_ptr<const replication::Control> control = make_control(spec.replication, linears);
  const std::vector<int64_t> levels =
      mixed_levels(spec.replication, *control, linears, target, seed, evidence != nullptr, stored - target);
  const auto coding = [&](const core::Slot& slot, const quant::WeightConfig& weight, uint64_t of) {
    const auto found = std::find_if(linears.begin(), linears.end(), [&](const auto& m) { return m.slot == &slot; });
    if (found == linears.end()) return quant::grid_coding(slot, weight, of);
    return control->coding(*found, of, levels[static_cast<size_t>(found - linears.begin())]);
  };
  return quant::assign(single_spec.quant, model, seed, coding);
}

// Every strategy, selection and control.
Assigned replicated(const Spec& spec, core::Model& model, const replication::Evidence* evidence) {
  const ReplicationConfig& config = spec.replication;
  const auto seed = static_cast<uint64_t>(spec.seed);
  const Spec single_spec = single_of(spec);
  const Assigned single = quant::assign(single_spec.quant, model, seed),
                 everywhere = quant::assign(spec.quant, model, seed, replication::coding_of(config));
  const replication::Evidence known =
      with_bits(evidence == nullptr ? replication::Evidence{} : *evidence, single, everywhere);
  config.select.require_room(model, known);
  const bool waits = config.select.is_ranked() && evidence == nullptr;
  std::set<std::string> chosen = waits ? std::set<std::string>{} : config.select.chosen_units(model, known, seed);
  if (waits && config.is_mixed()) return single;  // how much the replica stores is not known yet
  std::set<std::string> linears = config.select.linears_of(model, chosen);
  if (config.control == ReplicationConfig::kRandomSelection && !waits) linears = drawn_linears(config, model, chosen);
  if (!waits) replication::follow_plan(config, model, linears);
  Assigned replica =
      waits ? everywhere : quant::assign(spec.quant, model, seed, replication::coding_of(config, linears));
  return config.is_mixed() ? mixed(spec, model, single_spec, single, replica, evidence) : replica;
}

}  // namespace

Spec single_of(const Spec& spec) {
  Spec single = spec;
  single.quant.weight = replication::single_grid(spec.replication, spec.quant.weight);
  single.replication = {};
  return single;
}

quant::Calibration calibration_of(const Spec& spec, const core::Windows* text) {
  return {.propagate_error = spec.calibration.propagate_error,
          .all_experts = spec.calibration.all_experts,
          .tokens = text == nullptr ? 0 : text->count * text->seq_len,
          .min_token_fraction = spec.calibration.min_token_fraction,
          .pool = spec.calibration.fallback == "pooled"};
}

void follow_plan(const Spec& spec, core::Model& model) {
  const replication::Selection& select = spec.replication.select;
  if (!spec.replication.is_of_blocks()) return;
  const std::set<std::string> units = select.chosen_units(model, {}, static_cast<uint64_t>(spec.seed));
  replication::follow_plan(spec.replication, model, select.linears_of(model, units));
}

Assigned assignments(const Spec& spec, core::Model& model, const replication::Evidence* evidence) {
  if (!spec.replication.selected()) return quant::assign(spec.quant, model, static_cast<uint64_t>(spec.seed));
  Assigned assigned = replicated(spec, model, evidence);
  const std::set<std::string> paths = replaced(spec, model, assigned).paths;
  for (quant::Assignment& a : assigned) a.needs.hessian = a.needs.hessian || paths.contains(a.slot->path());
  return assigned;
}

Replaced replaced(const Spec& spec, core::Model& model, const Assigned& assigned) {
  const Assigned single = quant::assign(single_of(spec).quant, model, static_cast<uint64_t>(spec.seed));
  Replaced all;
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    if (!changes(single[i], assigned[i])) continue;
    all.paths.insert(single[i].slot->path());
    all.extra_bits += stored_bits(assigned[i]) - stored_bits(single[i]);
    all.weights += weights_of(*single[i].slot);
  }
  return all;
}

}  // namespace experiments
