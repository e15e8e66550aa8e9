#include "replication/select.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "core/error.h"
#include "core/random.h"

namespace replication {

void Selection::keys(core::Keys& k) {
  k.key("unit", unit, "what is chosen: single linears, or blocks or experts of mixtures with all their linears",
        {"linear", "block", "expert"});
  k.key("policy", policy,
        "all; list: those listed; every: each n-th unit; pattern: those whose path matches; sensitivity: those that "
        "quantization hurts most; frequency: experts that most tokens are sent to; random: drawn from the seed",
        {"all", "list", "every", "pattern", "sensitivity", "frequency", "random"});
  core::Key& listed = k.key(
      "list", list, "paths of the units, e.g. [model.layers.0] or [model.layers.0.mlp.up_proj]; read by policy: list");
  core::Key& nth =
      k.key("every", every, "n: units 0, n, 2n, ... in the order of the model; read by policy: every", {1, 1 << 20});
  core::Key& matched =
      k.key("pattern", pattern, "of the units' paths, * stands for any characters; read by policy: pattern");
  core::Key& share =
      k.key("fraction", fraction,
            "share of the units, rounded to the nearest number; read by sensitivity, frequency and random",
            {0, 1, /*low_open=*/true});
  core::Key& measure = k.key("metric", metric,
                             "by what units are ranked; output_error: tr(dHd') / tr(WHW') of their linears, of experts "
                             "frequency x mean gate^2 x "
                             "mean square error of their outputs; kl: divergence of the model "
                             "with this unit alone quantized, on the calibration text; read by sensitivity",
                             {"output_error", "kl"});
  core::Key& measured =
      k.key("candidates", candidates,
            "units whose KL is measured, the first ones by output_error (each costs a forward pass of "
            "the blocks behind it); the others rank behind them; 0: all; read by metric: kl",
            {0, 1 << 20});
  k.key("budget", budget,
        "bits per covered weight that the strategy may add; sensitivity, frequency and random take units in their "
        "order while they "
        "fit, in place of `fraction`; another selection that exceeds it is an error",
        {0, 16})
      .only_if_given();
  // What is not read is not in the resolved file, and a mistake if it is given.
  for (core::Key* key : {&listed, &nth, &matched, &share, &measure, &measured}) {
    if (!reads(key->name)) key->only_if_given();
  }
}

bool Selection::reads(const std::string& key) const {
  if (key == "fraction") return (is_ranked() || policy == "random") && !has_budget();
  if (key == "metric") return by_sensitivity();
  if (key == "candidates") return by_kl();
  return key == policy;  // list, every, pattern
}

void Selection::check() const {
  core::require(policy != "frequency" || of_experts(), "{}: tokens are sent to experts only. Give unit: expert.",
                where("policy"));
  core::require(!(given("fraction") && has_budget()), "{}: budget is given too. Keep one of them.", where("fraction"));
  for (const char* key : {"list", "every", "pattern", "fraction", "metric"}) {
    core::require(!given(key) || reads(key), "{} is not read with policy: {}. Remove one of the two.", where(key),
                  policy);
  }
  core::require(!given("candidates") || by_kl(), "{} is read with policy: sensitivity and metric: kl only. Remove it.",
                where("candidates"));
}

std::vector<std::string> paths_of(const std::vector<Unit>& units) {
  std::vector<std::string> paths;
  for (const Unit& unit : units) paths.push_back(unit.path);
  return paths;
}

namespace {

Unit unit_of(std::string path, int64_t block, const std::vector<core::Slot*>& slots) {
  Unit unit{std::move(path), block, {}};
  for (const core::Slot* slot : slots) unit.linears.insert(slot->path());
  return unit;
}

}  // namespace

std::vector<Unit> Selection::units(core::Model& model) const {
  std::vector<Unit> all;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    core::Block& block = model.block(i);
    if (unit == "block") {
      all.push_back(unit_of(core::path_of_block(i), i, block.slots()));
    } else if (of_experts()) {
      core::Mixture* mixture = block.mixture();
      for (int64_t e = 0; mixture != nullptr && e < mixture->experts(); ++e)
        all.push_back(unit_of(mixture->expert_path(e), i, mixture->slots_of(e)));
    } else {
      for (core::Slot* slot : block.slots()) all.push_back(unit_of(slot->path(), i, {slot}));
    }
  }
  return all;
}

OutputError Selection::error_of(const std::set<std::string>& linears, const OutputErrors& errors) {
  OutputError sum;
  for (const std::string& linear : linears) {
    const auto found = errors.find(linear);
    if (found == errors.end()) continue;
    sum.error += found->second.error;
    sum.energy += found->second.energy;
  }
  return sum;
}

std::set<std::string> Selection::linears_of(const std::vector<Unit>& units) {
  std::set<std::string> linears;
  for (const Unit& unit : units) linears.insert(unit.linears.begin(), unit.linears.end());
  return linears;
}

namespace {

// Units by a number, the largest first; equal ones stay in the order of the model.
std::vector<Unit> by_number(std::vector<Unit> units, const std::function<double(const Unit&)>& number) {
  std::vector<std::pair<double, Unit>> ranked;
  for (Unit& unit : units) {
    const double value = number(unit);
    ranked.emplace_back(value, std::move(unit));
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first > b.first; });
  std::vector<Unit> order;
  for (auto& [value, unit] : ranked) order.push_back(std::move(unit));
  return order;
}

// What the strategy adds in a unit, bits.
int64_t extra_of(const Unit& unit, const RankingStatistics& evidence) {
  int64_t sum = 0;
  for (const std::string& linear : unit.linears) {
    const auto found = evidence.extra_bits.find(linear);
    if (found != evidence.extra_bits.end()) sum += found->second;
  }
  return sum;
}

double per_weight(int64_t bits, const RankingStatistics& evidence) {
  return static_cast<double>(bits) / static_cast<double>(evidence.covered);
}

}  // namespace

std::vector<Unit> Selection::ranked(core::Model& model, const RankingStatistics& evidence) const {
  if (policy == "frequency")
    return by_number(units(model), [&](const Unit& unit) { return evidence.expert_frequency.at(unit.path); });
  std::vector<Unit> order = by_number(units(model), [&](const Unit& unit) {
    return of_experts() ? evidence.expert_error.at(unit.path) : error_of(unit.linears, evidence.errors).relative();
  });
  if (!by_kl()) return order;
  return by_number(std::move(order), [&](const Unit& unit) {
    const auto found = evidence.kl.find(unit.path);
    return found == evidence.kl.end() ? -1.0 : found->second;
  });
}

std::vector<Unit> Selection::kl_candidates(core::Model& model, const OutputErrors& errors) const {
  std::vector<Unit> order =
      by_number(units(model), [&](const Unit& unit) { return error_of(unit.linears, errors).relative(); });
  if (candidates > 0 && candidates < static_cast<int64_t>(order.size())) order.resize(candidates);
  return order;
}

// By fraction, or as many as the budget holds.
std::vector<Unit> Selection::first_of(std::vector<Unit> order, const RankingStatistics& evidence) const {
  if (!has_budget()) {
    const auto count = std::lround(fraction * static_cast<double>(order.size()));
    core::require(count > 0, "{}: {} of {} units is none. Raise it.", where("fraction"), fraction, order.size());
    order.resize(count);
    return order;
  }
  std::vector<Unit> chosen;
  int64_t spent = 0;
  for (const Unit& unit : order) {
    const int64_t extra = extra_of(unit, evidence);
    if (per_weight(spent + extra, evidence) > budget) continue;
    spent += extra;
    chosen.push_back(unit);
  }
  return chosen;
}

// By the policies that name units.
std::vector<Unit> Selection::named(const std::vector<Unit>& all) const {
  const auto listed = [&](const Unit& u) { return std::find(list.begin(), list.end(), u.path) != list.end(); };
  if (policy == "list") {
    const std::vector<std::string> paths = paths_of(all);
    for (const std::string& path : list) {
      core::require(std::count(paths.begin(), paths.end(), path) > 0,
                    "{}: `{}` is no {} of this model. They are named like {}.", where("list"), path, unit,
                    paths.back());
    }
    core::require(!list.empty(), "{}: the list is empty. Name a {}, e.g. {}.", where("list"), unit, paths.front());
  }
  std::vector<Unit> chosen;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool matches = policy == "list"      ? listed(all[i])
                         : policy == "every"   ? i % static_cast<size_t>(every) == 0
                         : policy == "pattern" ? fnmatch(pattern.c_str(), all[i].path.c_str(), 0) == 0
                                               : true;
    if (matches) chosen.push_back(all[i]);
  }
  core::require(!chosen.empty(), "{}: `{}` matches no {} of this model. They are named like {}.", where("pattern"),
                pattern, unit, all.front().path);
  return chosen;
}

void Selection::require_room(core::Model& model, const RankingStatistics& evidence) const {
  core::require(!units(model).empty(), "{}: this model has no experts. Choose unit: linear or block.", where("unit"));
  if (!has_budget()) return;
  int64_t least = std::numeric_limits<int64_t>::max();
  for (const Unit& one : units(model)) least = std::min(least, extra_of(one, evidence));
  core::require(per_weight(least, evidence) <= budget,
                "{}: {} bits per weight hold no {}: the cheapest adds {:.3g}. Raise it.", where("budget"), budget, unit,
                per_weight(least, evidence));
}

std::vector<Unit> Selection::drawn(core::Model& model, uint64_t seed) const {
  core::Random random(seed, "", "selection");
  return by_number(units(model), [&](const Unit&) { return random.uniform(); });
}

std::vector<Unit> Selection::chosen_units(core::Model& model, const RankingStatistics& evidence, uint64_t seed) const {
  require_room(model, evidence);
  if (is_ranked()) return first_of(ranked(model, evidence), evidence);
  if (policy == "random") return first_of(drawn(model, seed), evidence);
  std::vector<Unit> chosen = named(units(model));
  if (has_budget()) {
    int64_t spent = 0;
    for (const Unit& one : chosen) spent += extra_of(one, evidence);
    core::require(per_weight(spent, evidence) <= budget,
                  "{}: the selection adds {:.3g} bits per weight, more than {}. Raise it, or select less.",
                  where("budget"), per_weight(spent, evidence), budget);
  }
  return chosen;
}

}  // namespace replication
