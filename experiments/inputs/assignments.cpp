#include "experiments/inputs/assignments.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "core/error.h"
#include "core/io/data_roots.h"
#include "core/plan_stream.h"
#include "experiments/inputs/model_files.h"
#include "quant/calibration/imatrix.h"
#include "quant/stage/apply_transforms.h"
#include "replication/mix.h"

namespace experiments {

namespace {

using Assigned = std::vector<quant::Assignment>;
using replication::ReplicationConfig;

replication::Shape shape_of(const core::Slot& slot) { return {slot.out_features(), slot.in_features()}; }

int64_t weights_of(const core::Slot& slot) { return slot.out_features() * slot.in_features(); }

const quant::WeightFormat& last_format(const quant::Assignment& a) {
  return replication::last_format({a.format, a.refinement});
}

// Whether integer zero points are floats when the run is done.
bool floats_zeros(const Spec& spec) { return spec.qat.selected() && spec.qat.kinds().contains(core::Kind::zero_point); }

// Bits of everything that decodes a linear's codes in the end, and of the codes unless they are another's.
int64_t parameter_bits(const Spec& spec, const quant::Assignment& a) {
  const quant::WeightFormat& format = last_format(a);
  const auto [O, I] = shape_of(*a.slot);
  const quant::Parameters layout = format.layout(O, I);
  const bool floated = floats_zeros(spec) && std::any_of(layout.begin(), layout.end(), [](const quant::Parameter& p) {
                         return p.kind == core::Kind::zero_codes;
                       });
  if (!floated) return quant::parameter_bits(layout);
  quant::WeightConfig trained = format.config();
  trained.zero_point = "float";
  const auto remade =
      replication::restored_format(trained, format.replication(), format.place(), {O, I}, a.slot->path());
  return quant::parameter_bits(remade->layout(O, I));
}

int64_t stored_bits(const Spec& spec, const quant::Assignment& a) {
  const int64_t codes = a.codes_of.empty() ? last_format(a).code_bits() * weights_of(*a.slot) : 0;
  return codes + parameter_bits(spec, a);
}

// A linear of a block that has codes; embedding and head are nobody's replica.
bool is_coded(const quant::Assignment& a) {
  return a.format != nullptr && a.slot->role() != core::Role::embed_tokens && a.slot->role() != core::Role::lm_head;
}

bool codes_alike(const quant::WeightFormat& a, const quant::WeightFormat& b) {
  quant::WeightConfig of_a = a.config(), of_b = b.config();
  return a.name() == b.name() && core::to_node(of_a) == core::to_node(of_b) && a.replication() == b.replication();
}

// Of a block's norms, as they are stored when they have been trained.
int64_t norm_bits(const Spec& spec, core::Model& model, core::Block& block) {
  std::map<const core::RmsNorm*, int64_t> widths;
  for (const auto& module : block.modules(/*include_self=*/false)) {
    if (const auto* norm = dynamic_cast<const core::RmsNorm*>(module.get())) widths[norm] = model.shape().head_width;
  }
  for (const core::LinearGroup& group : block.groups()) {
    if (group.producer.norm != nullptr) widths[group.producer.norm] = group.slots.front()->in_features();
  }
  int64_t sum = 0;
  for (const auto& [norm, width] : widths) sum += width;
  return sum * static_cast<int64_t>(8 * c10::elementSize(dtype_of(spec)));
}

// What the replicas of each block that has some store beside it, under a plan of the strategy.
std::map<int64_t, int64_t> bits_of_replicas(const Spec& spec, core::Model& model, const core::Plan& plan,
                                            const Assigned& assigned) {
  std::map<int64_t, int64_t> bits;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    int64_t parameters = 0;
    const std::vector<core::Slot*> slots = model.block(i).slots();
    for (const quant::Assignment& a : assigned) {
      if (is_coded(a) && std::count(slots.begin(), slots.end(), a.slot) > 0) parameters += parameter_bits(spec, a);
    }
    const int64_t sum = replication::bits_of_replicas(spec.replication, own_parameters_of_replicas(spec, plan), plan, i,
                                                      parameters, norm_bits(spec, model, model.block(i)));
    if (sum > 0) bits[i] = sum;
  }
  return bits;
}

// The plan of the strategy, whether or not a control runs in its place.
core::Plan plan_of(const ReplicationConfig& config, core::Model& model, const std::set<std::string>& linears) {
  const replication::BlockStrategy* strategy = config.block_strategy();
  if (strategy == nullptr) return core::default_plan(model.shape().layers);
  std::set<int64_t> blocks;
  for (const std::string& linear : linears) blocks.insert(model.slot(linear).block());
  return strategy->plan(model.shape(), blocks);
}

std::set<std::string> all_linears(core::Model& model) {
  std::set<std::string> paths;
  for (const core::Slot* slot : model.slots()) paths.insert(slot->path());
  return paths;
}

// What is known before a selection: what the strategy would add to every linear, what belongs to a whole block to its
// first one.
replication::RankingStatistics with_bits(replication::RankingStatistics statistics, const Spec& spec,
                                         core::Model& model, const Assigned& single, const Assigned& replicated) {
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    statistics.extra_bits[single[i].slot->path()] = stored_bits(spec, replicated[i]) - stored_bits(spec, single[i]);
    statistics.covered += weights_of(*single[i].slot);
  }
  const core::Plan plan = plan_of(spec.replication, model, all_linears(model));
  for (const auto& [block, bits] : bits_of_replicas(spec, model, plan, replicated))
    statistics.extra_bits[model.block(block).slots().front()->path()] += bits;
  return statistics;
}

// As many units as the replica has, drawn anew.
std::set<std::string> drawn_linears(const ReplicationConfig& config, core::Model& model, size_t chosen) {
  std::vector<replication::Unit> order = config.select.drawn(model, static_cast<uint64_t>(config.draw));
  if (chosen == order.size())
    throw replication::NoControl("random_selection: the replica selects every unit, so another choice is the same one");
  order.resize(chosen);
  return config.select.linears_of(order);
}

// Whether the replica does something else to a linear than a plain grid.
bool changes(const quant::Assignment& single, const quant::Assignment& replica) {
  return replica.refinement != nullptr || !codes_alike(last_format(replica), last_format(single));
}

// The control of equal bits in place of `replica`, whose linears are `chosen`.
Assigned mixed(const Spec& spec, core::Model& model, const Spec& single_spec, const Assigned& single,
               const Assigned& replica, const std::set<std::string>& chosen,
               const replication::RankingStatistics* statistics) {
  std::vector<replication::Mixed> linears, billed;  // billed: as they are stored in the end
  int64_t stored = 0, target = 0;                   // by the replica; of that, by what the control mixes
  for (const auto& [block, bits] : bits_of_replicas(spec, model, plan_of(spec.replication, model, chosen), replica))
    target += bits;
  stored = target;
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    const core::Slot* slot = single[i].slot;
    const int64_t bits = stored_bits(spec, replica[i]), extra = bits - stored_bits(spec, single[i]);
    stored += bits;
    const bool mixes =
        replication::find_control(spec.replication.control)->may_mix(*slot, changes(single[i], replica[i]));
    target += mixes ? bits : extra;
    if (!mixes) continue;
    const double sensitivity =
        statistics == nullptr ? 0 : replication::Selection::error_of({slot->path()}, statistics->errors).relative();
    linears.push_back({slot, single[i].format->config(), sensitivity});
    billed.push_back(linears.back());
    if (floats_zeros(spec)) billed.back().weight.zero_point = "float";
  }
  if (linears.empty()) throw replication::NoControl(spec.replication.control + ": the model has no such linears");
  const auto seed = static_cast<uint64_t>(spec.seed);
  const std::shared_ptr<const replication::Levels> available = make_levels(spec.replication, linears);
  const std::vector<int64_t> levels =
      mixed_levels(spec.replication, *available, billed, target, seed, statistics != nullptr, stored - target);
  const auto coding = [&](const core::Slot& slot, const quant::WeightConfig& weight, uint64_t of) {
    const auto found = std::find_if(linears.begin(), linears.end(), [&](const auto& m) { return m.slot == &slot; });
    if (found == linears.end()) return quant::grid_coding(slot, weight, of);
    return available->coding(*found, of, levels[static_cast<size_t>(found - linears.begin())]);
  };
  return quant::assign(single_spec.quant, model, seed, coding);
}

// What is measured or averaged before the walk has reached it is as the model has it, and not yet transformed.
void refuse_transforms(const Spec& spec, const Assigned& assigned) {
  const bool looks_ahead = std::any_of(assigned.begin(), assigned.end(), [](const quant::Assignment& a) {
    return !a.mean_with.empty() || !a.further.empty();
  });
  core::require(!looks_ahead || quant::transforms_of(spec.transform, spec.quant).empty(),
                "{}: {} looks at later blocks or steps before a transform has reached them. Remove the transform, or "
                "calibrate on the first one alone.",
                spec.replication.where("strategy"), spec.replication.strategy);
}

// With calibration.targets: output, what corrects the weights of the blocks.
void ask_for_corrections(const Spec& spec, Assigned& assigned) {
  if (!spec.corrects_targets()) return;
  for (quant::Assignment& a : assigned) {
    core::require(a.further.empty() && a.mean_with.empty(),
                  "{}: output corrects a weight by the inputs of its first step, and {} counts further steps or "
                  "blocks. Remove it, or calibrate on the first one alone.",
                  spec.calibration.where("targets"), spec.replication.strategy);
    if (is_coded(a)) a.needs = a.needs | quant::Needs{.hessian = true, .cross = true};
  }
}

// With calibration.imatrix, the mean squares that it knows.
void use_importance_matrix(const Spec& spec, core::Model& model, Assigned& assigned) {
  const CalibrationConfig& calibration = spec.calibration;
  if (calibration.imatrix.empty()) return;
  core::require(quant::transforms_of(spec.transform, spec.quant).empty(),
                "{}: it is of inputs that no transform has changed. Leave one of them out.",
                calibration.where("imatrix"));
  const quant::ImportanceMatrix matrix(imatrix_file(spec));
  bool is_read = false;
  for (quant::Assignment& a : assigned) {
    if (!is_coded(a) || !a.needs.mean_square) continue;
    core::require(
        a.rotation == nullptr,
        "{}: it is of inputs that nothing rotates, and quant.weight.incoherence rotates those of {}. Leave one of "
        "them out.",
        calibration.where("imatrix"), a.slot->path());
    a.mean_square = matrix.mean_square(model.shape().family, *a.slot);
    a.needs.mean_square = false;
    is_read = true;
  }
  core::require(is_read,
                "{}: nothing reads mean squares of inputs. Set quant.weight.range: importance, or leave it out.",
                calibration.where("imatrix"));
}

// Every strategy, selection and control.
Assigned replicated(const Spec& spec, core::Model& model, const replication::RankingStatistics* statistics) {
  const ReplicationConfig& config = spec.replication;
  const auto seed = static_cast<uint64_t>(spec.seed);
  const Spec single_spec = single_of(spec);
  const Assigned single = quant::assign(single_spec.quant, model, seed),
                 everywhere = quant::assign(spec.quant, model, seed, replication::coding_of(config));
  const replication::RankingStatistics known = with_bits(
      statistics == nullptr ? replication::RankingStatistics{} : *statistics, spec, model, single, everywhere);
  config.select.require_room(model, known);
  const bool waits = config.select.is_ranked() && statistics == nullptr;
  const std::vector<replication::Unit> chosen =
      waits ? std::vector<replication::Unit>{} : config.select.chosen_units(model, known, seed);
  if (waits && config.is_mixed()) return single;  // how much the replica stores is not known yet
  std::set<std::string> linears = config.select.linears_of(chosen);
  if (config.draws_units() && !waits) linears = drawn_linears(config, model, chosen.size());
  if (!waits) replication::follow_plan(config, model, linears);
  Assigned replica =
      waits ? everywhere : quant::assign(spec.quant, model, seed, replication::coding_of(config, linears));
  if (config.is_mixed()) return mixed(spec, model, single_spec, single, replica, linears, statistics);
  replication::add_further_inputs(config, model, replica);
  refuse_transforms(spec, replica);
  return replica;
}

}  // namespace

Spec single_of(const Spec& spec) {
  Spec single = spec;
  single.quant.weight = replication::single_grid(spec.replication, spec.quant.weight);
  single.replication = {};
  return single;
}

quant::Correction correction_of(const Spec& spec) {
  return {.share = spec.calibration.target_share, .damp = spec.calibration.target_damp};
}

quant::Calibration calibration_of(const Spec& spec, const core::Windows* text) {
  return {.propagate_error = spec.calibration.propagate_error,
          .true_sequential = spec.is_sequential(),
          .all_experts = spec.calibration.all_experts,
          .tokens = text == nullptr ? 0 : text->count * text->seq_len,
          .min_token_fraction = spec.calibration.min_token_fraction,
          .pool = spec.calibration.fallback == "pooled",
          .correction = correction_of(spec)};
}

void follow_plan(const Spec& spec, core::Model& model) {
  const replication::Selection& select = spec.replication.select;
  if (!spec.replication.is_of_blocks()) return;
  replication::follow_plan(spec.replication, model, select.chosen_linears(model, {}, static_cast<uint64_t>(spec.seed)));
}

Assigned assignments(const Spec& spec, core::Model& model, const replication::RankingStatistics* statistics) {
  const bool replicates = spec.replication.selected();
  Assigned assigned = replicates ? replicated(spec, model, statistics)
                                 : quant::assign(spec.quant, model, static_cast<uint64_t>(spec.seed));
  if (replicates) {
    const std::set<std::string> paths = replaced(spec, model, assigned).paths;
    for (quant::Assignment& a : assigned) a.needs.hessian = a.needs.hessian || paths.contains(a.slot->path());
  }
  ask_for_corrections(spec, assigned);
  use_importance_matrix(spec, model, assigned);
  return assigned;
}

std::string imatrix_file(const Spec& spec) {
  const std::string& given = spec.calibration.imatrix;
  if (core::is_file(given)) return given;
  for (const std::string& root : core::data_roots()) {
    if (core::is_file(root + "/" + given)) return root + "/" + given;
  }
  core::fail("{}: {}: there is no such file. Make one: ./export_model MODEL --imatrix FILE --set imatrix.corpus=TEXT",
             spec.calibration.where("imatrix"), given);
}

replication::OwnParameters own_parameters_of_replicas(const Spec& spec, const core::Plan& plan) {
  const bool trains = spec.qat.tunes_model() || (spec.qat.tunes_blocks() && core::runs_in_one_go(plan));
  return {.parameters = trains, .norms = trains && spec.qat.kinds().contains(core::Kind::norm)};
}

Replaced replaced(const Spec& spec, core::Model& model, const Assigned& assigned) {
  const Assigned single = quant::assign(single_of(spec).quant, model, static_cast<uint64_t>(spec.seed));
  Replaced all;
  for (size_t i = 0; i < single.size(); ++i) {
    if (!is_coded(single[i])) continue;
    if (!changes(single[i], assigned[i])) continue;
    all.paths.insert(single[i].slot->path());
    all.extra_bits += stored_bits(spec, assigned[i]) - stored_bits(spec, single[i]);
    all.weights += weights_of(*single[i].slot);
  }
  if (!spec.replication.is_of_blocks() || spec.replication.removes_followers()) return all;
  for (const auto& [block, bits] : bits_of_replicas(spec, model, model.plan(), assigned)) {
    all.extra_bits += bits;
    for (const core::Slot* slot : model.block(block).slots()) {
      if (!all.paths.contains(slot->path())) all.weights += weights_of(*slot);
    }
  }
  return all;
}

}  // namespace experiments
