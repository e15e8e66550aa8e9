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

// The control of equal bits in place of `replica`.
Assigned mixed(const Spec& spec, core::Model& model, const Spec& single_spec, const Assigned& single,
               const Assigned& replica, const replication::Evidence* evidence) {
  std::vector<replication::Mixed> linears;
  int64_t target = 0;
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    const core::Slot* slot = single[i].slot;
    const double sensitivity =
        evidence == nullptr ? 0 : replication::Selection::error_of(slot->path(), evidence->errors).relative();
    linears.push_back({slot, single[i].decoder->config(), sensitivity});
    target += stored_bits(replica[i]);
  }
  const auto seed = static_cast<uint64_t>(spec.seed);
  const std::shared_ptr<const replication::Control> control = make_control(spec.replication, linears);
  const std::vector<int64_t> levels =
      mixed_levels(spec.replication, *control, linears, target, seed, evidence != nullptr);
  const auto coding = [&](const core::Slot& slot, const quant::WeightConfig&, uint64_t of) {
    const auto found = std::find_if(linears.begin(), linears.end(), [&](const auto& m) { return m.slot == &slot; });
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
  const bool waits = config.select.by_sensitivity() && evidence == nullptr;
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
    const bool refined = assigned[i].refinement != nullptr;
    if (!refined && codes_alike(last_decoder(assigned[i]), last_decoder(single[i]))) continue;
    all.paths.insert(single[i].slot->path());
    all.extra_bits += stored_bits(assigned[i]) - stored_bits(single[i]);
    all.weights += weights_of(*single[i].slot);
  }
  return all;
}

}  // namespace experiments
