#include "replication/select.h"

#include <fnmatch.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/random.h"

namespace replication {

void Selection::keys(core::Keys& k) {
  k.key("unit", unit, "what is chosen: single linears, or blocks with all their linears", {"linear", "block"});
  k.key("policy", policy,
        "all; list: those listed; every: each n-th unit; pattern: those whose path matches; sensitivity: the fraction "
        "whose outputs quantization hurts most; random: a fraction drawn from the seed",
        {"all", "list", "every", "pattern", "sensitivity", "random"});
  core::Key& listed = k.key(
      "list", list, "paths of the units, e.g. [model.layers.0] or [model.layers.0.mlp.up_proj]; read by policy: list");
  core::Key& nth =
      k.key("every", every, "n: units 0, n, 2n, ... in the order of the model; read by policy: every", {1, 1 << 20});
  core::Key& matched =
      k.key("pattern", pattern, "of the units' paths, * stands for any characters; read by policy: pattern");
  core::Key& share =
      k.key("fraction", fraction, "share of the units, rounded to the nearest number; read by sensitivity and random",
            {0, 1, /*low_open=*/true});
  // What the policy does not read is not in the resolved file, and a mistake if it is given.
  for (core::Key* key : {&listed, &nth, &matched, &share}) {
    if (!reads(key->name)) key->only_if_given();
  }
}

bool Selection::reads(const std::string& key) const {
  if (key == "fraction") return by_sensitivity() || policy == "random";
  return key == policy;  // list, every, pattern
}

void Selection::check() const {
  for (const char* key : {"list", "every", "pattern", "fraction"}) {
    core::require(!given(key) || reads(key), "{} is not read with policy: {}. Remove one of the two.", where(key),
                  policy);
  }
}

std::vector<std::string> Selection::units(core::Model& model) const {
  std::vector<std::string> all;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (unit == "block") {
      all.push_back("model.layers." + std::to_string(i));
    } else {
      for (const core::Slot* slot : model.block(i).slots()) all.push_back(slot->path());
    }
  }
  return all;
}

namespace {

bool inside(const std::string& linear, const std::string& unit) {
  return linear == unit || linear.starts_with(unit + ".");
}

}  // namespace

OutputError Selection::error_of(const std::string& unit, const std::map<std::string, OutputError>& errors) const {
  OutputError sum;
  for (const auto& [linear, found] : errors) {
    if (!inside(linear, unit)) continue;
    sum.error += found.error;
    sum.energy += found.energy;
  }
  return sum;
}

std::set<std::string> Selection::chosen_units(core::Model& model, const std::map<std::string, OutputError>& errors,
                                              uint64_t seed) const {
  std::vector<std::string> all = units(model);
  if (policy == "list") {
    for (const std::string& path : list) {
      core::require(std::count(all.begin(), all.end(), path) > 0,
                    "{}: `{}` is no {} of this model. They are named like {}.", where("list"), path, unit, all.back());
    }
    core::require(!list.empty(), "{}: the list is empty. Name a {}, e.g. {}.", where("list"), unit, all.front());
    return {list.begin(), list.end()};
  }
  if (policy == "sensitivity" || policy == "random") {
    const auto count = static_cast<int64_t>(std::lround(fraction * static_cast<double>(all.size())));
    core::require(count > 0, "{}: {} of {} units is none. Raise it.", where("fraction"), fraction, all.size());
    std::vector<std::pair<double, std::string>> ranked;
    core::Random random(seed, "", "selection");
    for (const std::string& path : all)
      ranked.emplace_back(policy == "random" ? -random.uniform() : -error_of(path, errors).relative(), path);
    std::stable_sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::set<std::string> chosen;
    for (int64_t i = 0; i < count; ++i) chosen.insert(ranked[i].second);
    return chosen;
  }
  std::set<std::string> chosen;
  for (size_t i = 0; i < all.size(); ++i) {
    const bool matches = policy == "every"     ? i % static_cast<size_t>(every) == 0
                         : policy == "pattern" ? fnmatch(pattern.c_str(), all[i].c_str(), 0) == 0
                                               : true;
    if (matches) chosen.insert(all[i]);
  }
  core::require(!chosen.empty(), "{}: `{}` matches no {} of this model. They are named like {}.", where("pattern"),
                pattern, unit, all.front());
  return chosen;
}

std::set<std::string> Selection::chosen_linears(core::Model& model, const std::map<std::string, OutputError>& errors,
                                                uint64_t seed) const {
  const std::set<std::string> chosen = chosen_units(model, errors, seed);
  std::set<std::string> linears;
  for (const core::Slot* slot : model.slots()) {
    const auto in = [&](const std::string& unit) { return inside(slot->path(), unit); };
    if (std::any_of(chosen.begin(), chosen.end(), in)) linears.insert(slot->path());
  }
  return linears;
}

std::set<int64_t> Selection::chosen_blocks(core::Model& model, const std::map<std::string, OutputError>& errors,
                                           uint64_t seed) const {
  const std::set<std::string> chosen = chosen_units(model, errors, seed);
  std::set<int64_t> blocks;
  for (int64_t i = 0; i < model.shape().layers; ++i) {
    if (policy == "all" || chosen.contains("model.layers." + std::to_string(i))) blocks.insert(i);
  }
  return blocks;
}

}  // namespace replication
