#include "quant/stage/apply_transforms.h"

#include <ATen/ATen.h>
#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "quant/calibration/calibration.h"
#include "quant/stage/fold.h"

namespace quant {

std::vector<NamedTransform> transforms_of(const std::vector<TransformItem>& items, const QuantConfig& config) {
  std::vector<NamedTransform> all;
  if (config.method == QuantConfig::kNone) return all;
  for (const TransformItem& item : items) all.push_back(item.chosen());
  if (auto own = config.methods.at(config.method)->transform()) all.push_back({config.method, std::move(own)});
  return all;
}

std::vector<InputGroup> ApplyTransforms::groups_of(core::Block& block) const {
  std::vector<InputGroup> groups;
  for (core::LinearGroup& linears : block.groups()) {
    if (!can_fold(linears.producer)) continue;
    InputGroup& group = groups.emplace_back();
    group.producer = linears.producer;
    group.parent = std::move(linears.parent);
    for (core::Slot* slot : linears.slots) {
      const auto found =
          std::find_if(assignments_.begin(), assignments_.end(), [&](const Assignment& a) { return a.slot == slot; });
      group.consumers.push_back({slot, found == assignments_.end() ? nullptr : found->format});
    }
  }
  return groups;
}

void ApplyTransforms::measure(core::BlockContext& context, const Transform& transform,
                              std::vector<InputGroup>& groups) const {
  std::vector<Tap> taps;
  for (InputGroup& group : groups) {
    const auto keep = [&group, left = transform.sample_tokens(group)](const at::Tensor& x) mutable {
      if (left <= 0) return;
      group.samples.push_back(x);
      left -= x.numel() / x.size(-1);
    };
    taps.push_back({.slot = group.consumers.front().slot, .needs = transform.needs(group), .watch = keep});
  }
  const std::vector<Statistics> measured =
      collect(context.block, {.step = context.step}, calibration_stream(context, propagate_error_), taps);
  for (size_t i = 0; i < groups.size(); ++i) groups[i].inputs = measured[i];
}

// All groups are measured before the first is folded: a fold changes no input of another group.
void ApplyTransforms::block(core::BlockContext& context) {
  at::NoGradGuard no_gradient;
  of_block_.clear();
  for (const auto& [name, transform] : transforms_) {
    std::vector<InputGroup> groups = groups_of(context.block);
    std::erase_if(groups, [&](const InputGroup& group) { return !transform->needs(group).any(); });
    measure(context, *transform, groups);
    for (InputGroup& group : groups) {
      if (group.inputs.tokens == 0) continue;
      const Factors found = transform->factors(group);
      group.samples.clear();
      if (!found.values.defined()) continue;
      std::vector<core::Slot*> readers;
      for (const Consumer& consumer : group.consumers) readers.push_back(consumer.slot);
      fold(group.producer, readers, found.values);
      for (const core::Slot* slot : readers) {
        std::string& note = of_block_[slot->path()];
        note += (note.empty() ? "" : ", ") + name + (found.note.empty() ? "" : " " + found.note);
      }
    }
  }
  notes_.insert(of_block_.begin(), of_block_.end());
}

std::string ApplyTransforms::record() const { return nlohmann::json(of_block_).dump(); }

void ApplyTransforms::restore(const std::string& record) {
  const auto notes = nlohmann::json::parse(record).get<std::map<std::string, std::string>>();
  notes_.insert(notes.begin(), notes.end());
}

}  // namespace quant
