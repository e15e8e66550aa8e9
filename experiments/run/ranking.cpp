#include "experiments/run/ranking.h"

#include <algorithm>
#include <set>

#include "core/io/files.h"
#include "experiments/analysis/sensitivity.h"
#include "models/registry.h"

namespace experiments {

Ranking rank(const Run& run, Resources& resources) {
  Ranking ranking{.spec = allocated(run.spec(), resources, *run.files, run.calibration),
                  .model = models::build(run.files->config)};
  const Spec& spec = ranking.spec;
  if (measures_experts(run.spec())) ranking.experts = experts_of(run.spec(), resources, *run.files, *run.calibration);
  if (spec.replication.ranks()) ranking.statistics = ranking_statistics(spec, resources, *run.files, *run.calibration);
  ranking.assigned = assignments(spec, *ranking.model, ranking.statistics ? &*ranking.statistics : nullptr);
  if (spec.replication.selected()) ranking.replaced = replaced(spec, *ranking.model, ranking.assigned);
  return ranking;
}

namespace {

// Units by sensitivity, and whether they are chosen.
void write_sensitivity(const Ranking& ranking, const std::string& directory) {
  const replication::Selection& select = ranking.spec.replication.select;
  core::Model& model = *ranking.model;
  std::set<std::string> linears = ranking.replaced.paths, chosen;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (model.replicas(i).empty()) continue;
    for (const core::Slot* slot : model.block(i).slots()) linears.insert(slot->path());
  }
  for (const replication::Unit& unit : select.units(model)) {
    const auto in = [&](const std::string& linear) { return linears.contains(linear); };
    if (std::any_of(unit.linears.begin(), unit.linears.end(), in)) chosen.insert(unit.path);
  }
  core::write_atomically(directory + "/sensitivity.csv", sensitivity_csv(select, model, *ranking.statistics, chosen));
}

void write_experts(const Ranking& ranking, const std::string& directory) {
  const Spec& spec = ranking.spec;
  core::Model& model = *ranking.model;
  std::vector<Expert> experts = ranking.experts;
  const Spec single = single_of(spec);
  for (const quant::Assignment& a : quant::assign(single.quant, model, static_cast<uint64_t>(spec.seed))) {
    for (Expert& expert : experts) {
      if (a.format && model.expert_path(*a.slot) == expert.path) expert.bits = a.format->config().bits;
    }
  }
  std::set<std::string> chosen;
  for (const core::Slot* slot : model.slots()) {
    if (ranking.replaced.paths.contains(slot->path())) chosen.insert(model.expert_path(*slot));
  }
  const std::map<std::string, double> none;
  core::write_atomically(directory + "/experts.csv",
                         experts_csv(experts, ranking.statistics ? ranking.statistics->kl : none, chosen));
  core::write_atomically(directory + "/coactivation.csv", coactivation_csv(experts));
}

}  // namespace

void write_ranking(const Ranking& ranking, const std::string& directory) {
  if (ranking.statistics && ranking.spec.replication.select.is_ranked()) write_sensitivity(ranking, directory);
  if (!ranking.experts.empty()) write_experts(ranking, directory);
}

}  // namespace experiments
