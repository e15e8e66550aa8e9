#include "experiments/config/controls.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "core/io/model_path.h"
#include "models/registry.h"

namespace experiments {

namespace {

void erase(core::Node& map, const std::string& key) {
  std::erase_if(map.entries, [&](const auto& entry) { return entry.first == key; });
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

// in_features of the linears in groups of quant.weight.group_size, whatever that is: those in groups of a rule's are
// left out.
std::set<int64_t> widths_of(const Spec& spec, const quant::WeightConfig& single) {
  constexpr int64_t kAny = 1;  // divides every width
  quant::QuantConfig quant = spec.quant;
  quant.weight = single;
  quant.weight.group_size = kAny;
  const auto model = models::build(core::read_model_config(core::find_model(spec.model.path)));
  std::set<int64_t> widths;
  for (const quant::Assignment& a : quant::assign(quant, *model)) {
    if (a.format != nullptr && a.weight.group_size == kAny) widths.insert(a.slot->in_features());
  }
  return widths;
}

}  // namespace

std::vector<Variant> with_controls(core::Node document) {
  Spec spec;
  core::bind(document, spec);
  const std::vector<std::string>& controls = spec.replication.controls;
  if (controls.empty() && !spec.replication.ladder) return {{std::move(document), ""}};
  for (const char* key : {"controls", "ladder"}) erase(*document.find("replication"), key);
  std::vector<Variant> variants{{document, replication::ReplicationConfig::kNone}};
  const quant::WeightConfig single = replication::single_grid(spec.replication, spec.quant.weight);
  const replication::ReplicaRun replica{
      .document = document,
      .weight = spec.quant.weight,
      .single = single,
      .select = spec.replication.select,
      .where = spec.replication.where("controls"),
      .widths = [&] { return widths_of(spec, single); },
  };
  for (const std::string& name : controls) {
    const replication::Control& control = *replication::find_control(name);
    for (replication::ControlRun& run : control.runs(control, replica))
      variants.insert(control.comes_first ? variants.begin() : variants.end(),
                      Variant{std::move(run.document), name, std::move(run.swept)});
  }
  if (spec.replication.ladder) add_ladder(spec, document, variants);
  return variants;
}

}  // namespace experiments
