#include "quant/config.h"

#include <fnmatch.h>

#include <algorithm>

#include "core/error.h"

namespace quant {

void Rule::keys(core::Keys& k) {
  k.key("match", match,
        "pattern of Hugging Face module paths (* stands for any characters), or role:<name>, e.g. role:down_proj");
  k.partial<WeightConfig>("weight", weight, "keys of quant.weight that differ for these modules");
  k.partial<ActivationConfig>("activation", activation, "keys of quant.activation that differ for their inputs");
}

void QuantConfig::keys(core::Keys& k) {
  std::vector<std::string> names{kNone};
  for (const auto& [name, method] : methods) names.push_back(name);
  k.key("method", method, "how codes are chosen; none: the model stays in full precision", names);
  for (const auto& [name, method] : methods) k.section(name, *method, method->summary());
  k.section("weight", weight, "the grid of the weights");
  k.section("activation", activation, "the grid of the inputs of quantized linears");
  k.list("rules", rules, "exceptions by module, merged key by key; of several that match, the last wins");
}

namespace {

// where: the key, as messages name it.
void require_read(const WeightConfig& weight, const std::string& key, const std::string& where) {
  const std::string reason = weight.unread(key);
  core::require(reason.empty(), "{} is not read with {}. Remove one of the two.", where, reason);
}

}  // namespace

void QuantConfig::check() const {
  for (const std::string& key : core::keys_of(const_cast<WeightConfig&>(weight)).names()) {
    if (weight.given(key)) require_read(weight, key, weight.where(key));
  }
  for (const Rule& rule : rules) {
    core::require(!rule.match.empty(), "{}: match is missing. Name the modules, e.g. \"*.down_proj\".",
                  rule.where("match"));
  }
}

namespace {

bool matches(const std::string& pattern, const core::Slot& slot) {
  if (pattern.starts_with("role:")) return pattern.substr(5) == core::name_of(slot.role());
  return fnmatch(pattern.c_str(), slot.path().c_str(), 0) == 0;
}

WeightConfig weight_of(const core::Slot& slot, const QuantConfig& config) {
  WeightConfig weight = config.weight;
  for (size_t i = 0; i < config.rules.size(); ++i) {
    const Rule& rule = config.rules[i];
    if (!matches(rule.match, slot)) continue;
    const std::string path = fmt::format("quant.rules[{}].weight", i);
    core::bind(rule.weight, weight, path);
    for (const auto& [key, value] : rule.weight.entries) {
      require_read(weight, key, core::at(value.origin, core::join_path(path, key)));
    }
  }
  return weight;
}

ActivationConfig activation_of(const core::Slot& slot, const QuantConfig& config) {
  ActivationConfig activation = config.activation;
  for (size_t i = 0; i < config.rules.size(); ++i) {
    const Rule& rule = config.rules[i];
    if (rule.activation.is_null() || !matches(rule.match, slot)) continue;
    core::bind(rule.activation, activation, fmt::format("quant.rules[{}].activation", i));
  }
  return activation;
}

void require_every_rule_to_match(const QuantConfig& config, const std::vector<core::Slot*>& slots) {
  for (const Rule& rule : config.rules) {
    const bool used =
        std::any_of(slots.begin(), slots.end(), [&](const core::Slot* s) { return matches(rule.match, *s); });
    core::require(used, "{}: `{}` matches no linear of this model. Its linears are named like {}.", rule.where("match"),
                  rule.match, slots.front()->path());
  }
}

}  // namespace

Coding grid_coding(const core::Slot& slot, const WeightConfig& weight, uint64_t seed) {
  return {make_decoder(weight, slot.path(), slot.in_features(), seed)};
}

std::vector<Assignment> assign(const QuantConfig& config, core::Model& model, uint64_t seed, const CodingOf& coding) {
  const std::vector<core::Slot*> slots = model.slots();
  require_every_rule_to_match(config, slots);
  std::vector<Assignment> assignments;
  for (core::Slot* slot : slots) {
    Assignment a{slot, weight_of(*slot, config), nullptr, nullptr, {}};
    if (config.method != QuantConfig::kNone && a.weight.covered()) {
      const Coding chosen = coding(*slot, a.weight, seed);
      a.decoder = chosen.decoder;
      a.refinement = chosen.refinement;
      a.input = make_input_quantizer(activation_of(*slot, config), slot->path(), slot->in_features(), seed);
      const Method& method = *config.methods.at(config.method);
      const std::vector<Order> accepted = method.accepts();
      core::require(std::count(accepted.begin(), accepted.end(), a.decoder->order()) > 0,
                    "{}: {} cannot encode for the decoder {}. Choose another method.", slot->path(), config.method,
                    a.decoder->name());
      const std::string reason = method.refuses(*a.decoder, slot->out_features(), slot->in_features());
      core::require(reason.empty(), "{}: {}: {}", slot->path(), config.method, reason);
      a.needs = method.needs() | a.decoder->needs();
      if (a.refinement) a.needs = a.needs | a.refinement->needs();
    }
    assignments.push_back(std::move(a));
  }
  return assignments;
}

bool needs_statistics(const std::vector<Assignment>& assignments) {
  return std::any_of(assignments.begin(), assignments.end(), [](const Assignment& a) { return a.needs.any(); });
}

}  // namespace quant
