#include "experiments/controls.h"

#include <algorithm>

#include "core/error.h"

namespace experiments {

namespace {

using replication::ReplicationConfig;

void erase(core::Node& map, const std::string& key) {
  std::erase_if(map.entries, [&](const auto& entry) { return entry.first == key; });
}

// The document of the single replica: no strategy, and the grid that stands for it. spec: the same document, bound.
core::Node single_document(core::Node document, const Spec& spec) {
  erase(document, "replication");
  const quant::WeightConfig single = replication::single_grid(spec.replication, spec.quant.weight);
  if (single.symmetry != spec.quant.weight.symmetry) {
    if (core::Node* weight = document.find("quant"); weight != nullptr && weight->find("weight") != nullptr)
      erase(*weight->find("weight"), "zero_point");  // midrise has none
    core::assign(document, "quant.weight.symmetry", core::make_string(single.symmetry));
  }
  if (single.range != spec.quant.weight.range)
    core::assign(document, "quant.weight.range", core::make_string(single.range));
  return document;
}

core::Node control_document(core::Node document, const std::string& control) {
  core::assign(document, "replication.control", core::make_string(control));
  return document;
}

// The same without training, on the same calibration text.
core::Node untrained(core::Node document, const Spec& spec) {
  erase(document, "qat");
  if (spec.qat.reserves()) core::assign(document, "qat.held_out", core::make_number(spec.qat.held_out));
  return document;
}

// The rungs, and where the replica is trained, each of them trained too.
void add_ladder(const Spec& spec, const core::Node& document, std::vector<Variant>& variants) {
  const std::string& strategy = spec.replication.strategy;
  const std::vector<replication::Rung> ladder = spec.replication.strategies.at(strategy)->ladder();
  for (const bool trained : {false, true}) {
    if (trained && !spec.qat.selected()) return;
    for (const replication::Rung& rung : ladder) {
      core::Node& made =
          variants.emplace_back(Variant{trained ? document : untrained(document, spec), rung.name}).document;
      if (trained) variants.back().control += "_trained";
      core::assign(made, "replication." + strategy, rung.options);
      if (rung.averaged) core::assign(made, "replication.average", core::make_bool(true));
    }
  }
}

// One of several runs of a control.
Variant varied(core::Node document, const std::string& control, const std::string& key, int64_t value) {
  core::assign(document, key, core::make_integer(value));
  return {std::move(document), control, {{key, std::to_string(value)}}};
}

}  // namespace

std::vector<Variant> with_controls(core::Node document) {
  Spec spec;
  core::bind(document, spec);
  const std::vector<std::string>& controls = spec.replication.controls;
  if (controls.empty() && !spec.replication.ladder) return {{std::move(document), ""}};
  for (const char* key : {"controls", "ladder"}) erase(*document.find("replication"), key);
  std::vector<Variant> variants{{document, ReplicationConfig::kNone}};
  for (const std::string& control : controls) {
    if (control == ReplicationConfig::kSingle) {
      variants.insert(variants.begin(), {single_document(document, spec), control});
    } else if (control == ReplicationConfig::kRandomSelection) {
      const bool whole = spec.replication.select.policy == "all";  // one line then says that there is nothing to draw
      for (int64_t draw = 1; draw <= (whole ? 1 : ReplicationConfig::kDraws); ++draw) {
        variants.push_back(varied(control_document(document, control), control, "replication.draw", draw));
      }
    } else if (control == ReplicationConfig::kCurve) {
      const core::Node single = single_document(document, spec);
      for (const int64_t size : {128, 64, 32})
        variants.push_back(varied(single, control, "quant.weight.group_size", size));
      variants.push_back(varied(single, control, "quant.weight.bits", spec.quant.weight.bits + 1));
      core::assign(variants.back().document, "quant.weight.group_size", core::make_integer(64));
    } else {
      variants.push_back({control_document(document, control), control});
      if (control == ReplicationConfig::kFollowersRemoved)  // leaders that have nobody else to think of
        core::assign(variants.back().document, "replication.adjacent.from", core::make_string("first"));
    }
  }
  if (spec.replication.ladder) add_ladder(spec, document, variants);
  return variants;
}

}  // namespace experiments
