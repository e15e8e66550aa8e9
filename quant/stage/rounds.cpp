// Second half of class Quantize: groups linears into calibration passes, handles experts with too few tokens, and says
// which linears are encoded together.
#include <algorithm>
#include <map>
#include <utility>

#include "core/error.h"
#include "quant/calibration/calibration.h"
#include "quant/stage/quantize.h"

namespace quant {

bool Quantize::corrects_targets() const {
  return std::any_of(assignments_.begin(), assignments_.end(), [](const Assignment& a) { return a.needs.cross; });
}

std::vector<Quantize::Group> Quantize::groups_of(core::Block& block) const {
  std::vector<Group> groups;
  for (const core::LinearGroup& linears : block.groups()) {
    std::map<std::string, Group> by_input;  // linears whose inputs are quantized differently see different inputs
    for (const Assignment& a : assignments_) {
      if ((!a.format && !a.input) || std::count(linears.slots.begin(), linears.slots.end(), a.slot) == 0) continue;
      const std::string input = as_text(a.input.get()) + (a.rotation ? as_text(*a.rotation) : "");
      Group& group = by_input[input];
      if (group.targets.empty()) {
        group.name = a.slot->path() + "\n" + input;
        group.further = a.further;
      }
      group.pool = linears.pool;
      group.targets.push_back(
          {a.slot, a.format, a.input, a.refinement, a.codes_of, a.mean_with, a.descent, a.rotation});
      group.targets.back().mean_square = a.mean_square;
      group.targets.back().set({});
      group.needs = group.needs | a.needs;
    }
    for (auto& [input, group] : by_input) groups.push_back(std::move(group));
  }
  return groups;
}

// Groups that are measured in one pass over the calibration text: all of the block unless they are to be measured
// one after the other, or their matrices together are too large.
std::vector<std::vector<Quantize::Group>> Quantize::rounds_of(core::Block& block) const {
  std::vector<std::vector<Group>> rounds;
  int64_t bytes = 0;
  for (Group& group : groups_of(block)) {
    const int64_t I = group.targets.front().slot->in_features();
    const int64_t matrices = (group.needs.hessian ? 1 : 0) + (group.needs.cross ? 1 : 0);
    const int64_t of_group = matrices * I * I * static_cast<int64_t>(sizeof(float));
    bytes += of_group;
    if (rounds.empty() || calibration_.true_sequential || bytes > calibration_.hessian_bytes) {
      rounds.emplace_back();
      bytes = of_group;
    }
    rounds.back().push_back(std::move(group));
  }
  return rounds;
}

bool Quantize::reads_stream(core::Model& model) const {
  if (std::any_of(assignments_.begin(), assignments_.end(), [](const Assignment& a) { return a.reads_inputs; }))
    return true;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (const Group& group : groups_of(model.block(i))) {
      if (group.is_static()) return true;
      const bool kept = calibration_.store != nullptr && calibration_.store->has(group.name, group.needs);
      if (group.needs.any() && !kept) return true;
    }
  }
  return false;
}

// The stream that inputs are measured on. first: of the linears in question.
const core::HiddenStore& Quantize::stream(core::BlockContext& context, const Group& first) const {
  core::require(context.inputs.full != nullptr || calibration_.store == nullptr,
                "{}: its statistics have left the cache since the run began. Run it again, or raise --cache-limit.",
                first.targets.front().slot->path());
  return calibration_stream(context, calibration_.propagate_error);
}

// Static quantizers get their parameters, each from the inputs of its group.
void Quantize::calibrate_inputs(core::BlockContext& context, std::vector<Group>& round) const {
  std::vector<core::Slot*> slots;
  std::vector<Group*> groups;
  std::vector<InputHistogram> histograms;
  for (Group& group : round) {
    if (!group.is_static()) continue;
    slots.push_back(group.targets.front().slot);
    groups.push_back(&group);
    histograms.push_back(group.targets.front().input->histogram());
  }
  if (slots.empty()) return;
  collect(context.block, {.step = context.step}, stream(context, *groups.front()), slots, histograms);
  for (size_t i = 0; i < groups.size(); ++i) {
    for (Target& target : groups[i]->targets) target.input = target.input->calibrated(histograms[i]);
  }
}

// originals: of the block, where targets are corrected.
void Quantize::measure(core::BlockContext& context, std::vector<Group>& round, const Linears& originals) const {
  std::vector<Tap> taps;
  std::vector<Group*> tapped;
  for (Group& group : round) {
    if (!group.needs.any()) continue;
    if (calibration_.store != nullptr) {
      if (auto found = calibration_.store->find(group.name, group.needs)) {
        const auto device = group.targets.front().slot->linear().weight().device();
        group.set(found->to(device));
        continue;
      }
    }
    const Target& first = group.targets.front();
    taps.push_back({first.slot, group.needs, first.input, {}, first.rotation});
    tapped.push_back(&group);
  }
  if (taps.empty()) return;
  const core::HiddenStore& inputs = stream(context, *tapped.front());
  const core::Pass pass{.step = context.step, .all_experts = calibration_.all_experts};
  const bool beside = std::any_of(taps.begin(), taps.end(), [](const Tap& tap) { return tap.needs.cross; });
  const std::vector<Statistics> measured =
      beside ? collect_beside(context.block, pass, inputs,
                              {calibration_stream(context, /*propagate_error=*/false), originals}, taps)
             : collect(context.block, pass, inputs, taps);
  for (size_t i = 0; i < tapped.size(); ++i) {
    tapped[i]->set(measured[i]);
    if (calibration_.store != nullptr && measured[i].tokens > 0)
      calibration_.store->keep(tapped[i]->name, tapped[i]->needs, measured[i]);
  }
}

// Linears whose inputs were to be measured, and that hardly any token reached. Those that are to have what their pool
// sees leave the round: it is known when the block's last round is measured.
void Quantize::fall_back(std::vector<Group>& round, Pools& pools) const {
  const double least = calibration_.min_token_fraction * static_cast<double>(calibration_.tokens);
  std::vector<Group> rest;
  for (Group& group : round) {
    const Statistics& inputs = group.targets.front().inputs;
    const int64_t tokens = inputs.tokens;
    const bool pooled = calibration_.pool && !group.pool.empty();
    if (pooled) pools.seen[group.pool] = Statistics::pooled({pools.seen[group.pool], inputs});
    if (!group.needs.any() || (tokens > 0 && static_cast<double>(tokens) >= least)) {
      rest.push_back(std::move(group));
      continue;
    }
    for (Target& target : group.targets)
      target.fallback = fmt::format("{} of {} calibration tokens reached it", tokens, calibration_.tokens);
    if (pooled) group.set({});
    (pooled ? pools.waiting : rest).push_back(std::move(group));
  }
  round = std::move(rest);
}

// Those that waited, with what their pools have seen.
std::vector<Quantize::Group> Quantize::pooled(Pools& pools) {
  for (Group& group : pools.waiting) {
    const Statistics& seen = pools.seen.at(group.pool);
    if (seen.tokens == 0) continue;
    group.set(seen);
    for (Target& target : group.targets) target.note = std::exchange(target.fallback, "") + ": pooled";
  }
  return std::move(pools.waiting);
}

// What is encoded at a time, so that codes of few linears lie unpacked in memory: a group of linears, or everything for
// a method that runs the block. Linears that get no codes come last.
std::vector<std::vector<Target>> Quantize::portions_of(std::vector<Group> round) const {
  std::vector<std::vector<Target>> portions(1);
  std::vector<Target> in_full_precision;
  for (Group& group : round) {
    for (Target& target : group.targets)
      (target.format ? portions.back() : in_full_precision).push_back(std::move(target));
    if (!method_->reads_inputs()) portions.emplace_back();
  }
  portions.push_back(std::move(in_full_precision));
  std::erase_if(portions, [](const auto& targets) { return targets.empty(); });
  return portions;
}

}  // namespace quant
