// Statistics of inputs that the walk has not come to when a linear is coded: in later steps that run its block again,
// or of linears of later blocks that will use its codes. What these inputs will be behind quantized blocks nobody knows
// by then, so they are those of the full-precision model, run through the plan once before the walk. Each is kept in
// the store by itself; beside the linear's own they count by their tokens.
#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/plan_stream.h"
#include "quant/calibration/calibration.h"
#include "quant/linear/swapped.h"
#include "quant/stage/quantize.h"

namespace quant {

namespace {

// group: name of the statistics of the linear that they are added to.
std::string name_of(const FurtherInput& further, const std::string& group) {
  return fmt::format("{}\nfrom: {}\nstep: {}", group, further.path, further.step);
}

// The slot at a path of the model's blocks, in the replica that a step runs.
core::Slot& slot_in(core::Model& model, const FurtherInput& further) {
  const core::Step& step = model.plan().at(further.step);
  const std::vector<core::Slot*> slots = model.block(step.block).slots();
  const auto found = std::find_if(slots.begin(), slots.end(), [&](auto* s) { return s->path() == further.path; });
  TORCH_CHECK(found != slots.end(), further.path, " is not run by step ", further.step);
  return *model.block(step.block, step.replica).slots()[found - slots.begin()];
}

}  // namespace

bool Quantize::wants_further(core::Model& model) const {
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (const Group& group : groups_of(model.block(i))) {
      for (const FurtherInput& further : group.further) {
        if (group.needs.any() && !calibration_.further->has(name_of(further, group.name), group.needs)) return true;
      }
    }
  }
  return false;
}

void Quantize::measure_further(core::Model& model, core::BlockSource& source, core::HiddenStore& hidden,
                               const std::function<void(int64_t, int64_t)>& on_step) const {
  const at::NoGradGuard no_gradient;
  std::map<int64_t, std::vector<std::pair<FurtherInput, Group>>> wanted;  // by step
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    for (const Group& group : groups_of(model.block(i))) {
      for (const FurtherInput& further : group.further) {
        const bool kept = calibration_.further->has(name_of(further, group.name), group.needs);
        if (group.needs.any() && !kept) wanted[further.step].emplace_back(further, group);
      }
    }
  }
  if (wanted.empty()) return;
  const int64_t steps = wanted.rbegin()->first + 1;
  core::PlanStream stream(model, hidden);
  for (int64_t step = 0; step < steps; ++step) {
    core::honour_interrupt();
    const int64_t block = model.plan()[step].block;
    source.load(model, block);
    const auto& here = wanted[step];
    std::vector<Accumulator> sums;
    for (const auto& [further, group] : here) sums.emplace_back(group.needs);
    {
      Swapped recorders;
      for (size_t i = 0; i < here.size(); ++i) {
        core::Slot& slot = slot_in(model, here[i].first);
        const Target& first = here[i].second.targets.front();
        const auto input = first.input;
        const auto rotation = first.rotation;
        recorders.put(slot, std::make_shared<core::RecordingLinear>(
                                slot.pointer(), [&sum = sums[i], input, rotation](const at::Tensor& x) {
                                  const at::Tensor coded = rotation ? rotation->input(x) : x;
                                  sum.add(input ? input->apply(coded) : coded);
                                }));
      }
      stream.advance(step, /*in_order=*/!here.empty(), calibration_.all_experts);
    }
    for (size_t i = 0; i < here.size(); ++i) {
      const auto& [further, group] = here[i];
      Statistics found = sums[i].result();
      if (found.tokens == 0) found.mean_square = at::zeros({group.targets.front().slot->in_features()});
      calibration_.further->keep(name_of(further, group.name), group.needs, found);
    }
    source.release(model, block);
    if (on_step) on_step(step + 1, steps);
  }
}

void Quantize::add_further(std::vector<Group>& round) const {
  for (Group& group : round) {
    if (group.further.empty() || !group.needs.any()) continue;
    std::vector<Statistics> all{group.targets.front().inputs};
    const auto device = group.targets.front().slot->linear().weight().device();
    for (const FurtherInput& further : group.further) {
      auto found = calibration_.further->find(name_of(further, group.name), group.needs);
      core::require(found.has_value(),
                    "{}: its statistics have left the cache since the run began. Run it again, or raise --cache-limit.",
                    further.path);
      all.push_back(found->to(device));
    }
    group.set(Statistics::pooled(all));
  }
}

}  // namespace quant
