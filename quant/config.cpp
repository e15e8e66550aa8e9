#include "quant/config.h"

#include <fmt/format.h>
#include <fnmatch.h>

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "core/warn_once.h"
#include "quant/grids/make_format.h"

namespace quant {

void Rule::keys(core::Keys& k) {
  k.key("match", match,
        "pattern of Hugging Face module paths (* stands for any characters), or role:<name>, e.g. role:down_proj; "
        "embedding and head are meant only by a pattern that ends with embed_tokens or lm_head, and are quantized only "
        "by a rule that gives weight.bits: they are rounded to nearest, whatever the method");
  k.partial<WeightConfig>("weight", weight, "keys of quant.weight that differ for these modules");
  k.partial<ActivationConfig>("activation", activation, "keys of quant.activation that differ for their inputs");
}

void RouterConfig::keys(core::Keys& k) {
  k.key("bits", bits,
        "bits of the codes of routers and of the gates of shared experts, other keys as of quant.weight; 16: full "
        "precision. Rules come after it",
        {1, WeightConfig::kFullPrecision});
}

void RouterConfig::check() const {
  core::require(bits <= 8 || bits == WeightConfig::kFullPrecision,
                "{} must be 1 to 8, or 16 for full precision, not {}.", where("bits"), bits);
}

void QuantConfig::keys(core::Keys& k) {
  std::vector<std::string> names{kNone};
  for (const auto& [name, method] : methods) names.push_back(name);
  k.key("method", method, "how codes are chosen; none: the model stays in full precision", names);
  for (auto& [name, options] : methods) {
    core::Key& section = k.section(name, *options, options->summary());
    if (!options->has_defaults() && name != method) section.only_if_given();
  }
  k.key("descent", descent,
        "rounds of coordinate descent on what the method has found: scales of groups by least squares for the codes, "
        "then all codes in turn, so that the error on calibration inputs falls",
        {0, 1000});
  core::Key& grid = k.section("weight", weight, "the grid of the weights");
  if (brings_codes()) grid.only_if_given();
  k.section("activation", activation, "the grid of the inputs of linears");
  k.section("router", router, "what chooses the experts of a token");
  k.section("expert_bits", expert_bits, "bits of the codes of each expert of a mixture").only_if_given();
  k.list("rules", rules, "exceptions by module, merged key by key; of several that match, the last wins");
}

namespace {

// where: the key, as messages name it.
void require_read(const WeightConfig& weight, const std::string& key, const std::string& where) {
  const std::string reason = weight.unread(key);
  core::require(reason.empty(), "{} is not read with {}. Remove one of the two.", where, reason);
}

}  // namespace

const Method& QuantConfig::chosen() const { return *methods.at(method); }

bool QuantConfig::brings_codes() const { return method != kNone && chosen().brings_codes(); }

// The method has grids; what is left to say is which linears stay in full precision.
void QuantConfig::check_brought() const {
  for (const std::string& key : core::keys_of(const_cast<WeightConfig&>(weight)).names()) {
    core::require(!weight.given(key), "{} is not read with quant.method: {}, whose codes have their grid. Remove it.",
                  weight.where(key), method);
  }
  core::require(router.bits == WeightConfig::kFullPrecision && !expert_bits.selected(),
                "{}: {} brings codes with as many bits as they have. Remove router and expert_bits.", where("method"),
                method);
  for (const Rule& rule : rules) {
    const core::Node* bits = rule.weight.find("bits");
    core::require(rule.weight.is_null() || (rule.weight.entries.size() == 1 && bits != nullptr && bits->scalar == "16"),
                  "{}: with quant.method: {} a rule can say bits: 16, full precision, and nothing else of weights.",
                  rule.where("weight"), method);
  }
}

void QuantConfig::check_descent() const {
  if (descent == 0) return;
  core::require(method != kNone && !brings_codes() && !chosen().reads_inputs(),
                "{}: it goes on from codes that a method has chosen linear by linear, and quant.method: {} does not. "
                "Choose another method, or remove it.",
                where("descent"), method);
  core::require(weight.rounding == "nearest",
                "{}: it chooses the nearest codes, and quant.weight.rounding: {} does not. Leave one of them out.",
                where("descent"), weight.rounding);
}

void QuantConfig::check() const {
  core::require(!expert_bits.selected() || method != kNone,
                "{}: quant.method: none makes no codes that experts could have. Choose a method.",
                expert_bits.where("policy"));
  if (brings_codes()) check_brought();
  check_descent();
  for (const std::string& key : core::keys_of(const_cast<WeightConfig&>(weight)).names()) {
    if (weight.given(key)) require_read(weight, key, weight.where(key));
  }
  for (const Rule& rule : rules) {
    core::require(!rule.match.empty(), "{}: match is missing. Name the modules, e.g. \"*.down_proj\".",
                  rule.where("match"));
  }
}

namespace {

bool is_end(const core::Slot& slot) {
  return slot.role() == core::Role::lm_head || slot.role() == core::Role::embed_tokens;
}

bool matches(const std::string& pattern, const core::Slot& slot) {
  const std::string role = core::name_of(slot.role());
  if (is_end(slot) && !pattern.ends_with(role)) return false;  // `*` means the blocks
  if (pattern.starts_with("role:")) return pattern.substr(5) == role;
  return fnmatch(pattern.c_str(), slot.path().c_str(), 0) == 0;
}

bool decides(const core::Slot& slot) {
  return slot.role() == core::Role::router || slot.role() == core::Role::shared_expert_gate;
}

WeightConfig weight_of(const core::Slot& slot, const QuantConfig& config) {
  WeightConfig weight = config.weight;
  if (decides(slot)) weight.bits = config.router.bits;
  if (config.brings_codes()) {
    const std::optional<BroughtCodes> brought = config.chosen().brought(slot);
    weight = brought ? brought->grid : WeightConfig{};
    if (!brought) weight.bits = WeightConfig::kFullPrecision;
  }
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
  ActivationConfig activation = decides(slot) ? ActivationConfig{} : config.activation;
  for (size_t i = 0; i < config.rules.size(); ++i) {
    const Rule& rule = config.rules[i];
    if (rule.activation.is_null() || !matches(rule.match, slot)) continue;
    core::bind(rule.activation, activation, fmt::format("quant.rules[{}].activation", i));
  }
  return activation;
}

// Whether the pattern means norms of the model.
bool names_a_norm(const std::string& pattern, core::Model& model) {
  for (const auto& module : model.modules(/*include_self=*/false)) {
    const auto* norm = dynamic_cast<const core::RmsNorm*>(module.get());
    if (norm != nullptr && fnmatch(pattern.c_str(), norm->path().c_str(), 0) == 0) return true;
  }
  return false;
}

void require_every_rule_to_match(const QuantConfig& config, core::Model& model) {
  std::vector<core::Slot*> slots = model.slots();
  slots.insert(slots.end(), {&model.embedding(), &model.head()});
  for (const Rule& rule : config.rules) {
    const bool used =
        std::any_of(slots.begin(), slots.end(), [&](const core::Slot* s) { return matches(rule.match, *s); });
    if (used) continue;
    core::require(!names_a_norm(rule.match, model),
                  "{}: `{}` names a norm, and norms are not quantized. Name linears, e.g. {}.", rule.where("match"),
                  rule.match, slots.front()->path());
    core::fail("{}: `{}` matches no linear of this model. Its linears are named like {}.", rule.where("match"),
               rule.match, slots.front()->path());
  }
}

// Codes that are there have one grid.
void require_as_brought(const Assignment& a, const QuantConfig& config) {
  WeightConfig asked = a.format->config(), there = a.weight;
  core::require(a.format->name() == "affine" && core::to_node(asked) == core::to_node(there) && a.codes_of.empty() &&
                    a.mean_with.empty(),
                "{}: the codes of {} are there already, on a grid of their own, and {} asks for others. Use another "
                "method, or a strategy that keeps codes.",
                config.where("method"), a.slot->path(), a.format->name());
}

// Gives the linear its rotation, where the configuration asks for one.
void rotate(Assignment& a, const ActivationConfig& activation, const QuantConfig& config, uint64_t seed) {
  const core::Slot& slot = *a.slot;
  a.rotation = Rotation::make(a.weight.incoherence, slot.out_features(), slot.in_features(), seed);
  if (a.rotation == nullptr) return;
  const std::string where = a.weight.where("incoherence");
  core::require(!a.reads_inputs,
                "{}: {} runs the block on weights that are not rotated. Choose another method, or hadamard: none.",
                where, config.method);
  core::require(a.mean_with.empty(), "{}: the mean of several weights is not rotated. Use hadamard: none.", where);
  core::require(!activation.is_static(),
                "{}: static inputs have their range before the rotation. Use quant.activation.mode: dynamic.", where);
}

// A linear of a block.
Assignment assignment_of(core::Slot* slot, const QuantConfig& config, uint64_t seed, const CodingOf& coding) {
  Assignment a{slot, weight_of(*slot, config), nullptr, nullptr, {}};
  if (config.method == QuantConfig::kNone) return a;
  ActivationConfig activation = activation_of(*slot, config);
  const auto input = [&] { return make_input_quantizer(activation, slot->path(), slot->in_features(), seed); };
  a.input = input();
  if (!a.weight.covered()) return a;
  const Coding chosen = coding(*slot, a.weight, seed);
  if (!chosen.inputs.empty()) {
    core::require(activation.covered(),
                  "{}: its replicas differ in how inputs are quantized, but they are not: quant.activation.bits is 16. "
                  "Set it to 8 or less.",
                  slot->path());
    activation.replicas = chosen.inputs;
    a.input = input();
  }
  a.format = chosen.format;
  a.refinement = chosen.refinement;
  a.codes_of = chosen.codes_of;
  a.mean_with = chosen.mean_with;
  const Method& method = config.chosen();
  if (config.brings_codes()) require_as_brought(a, config);
  const std::vector<Order> accepted = method.accepts();
  core::require(std::count(accepted.begin(), accepted.end(), a.format->order()) > 0,
                "{}: {} cannot encode for the format {}. Choose another method.", config.where("method"), config.method,
                a.format->name());
  const std::string reason = method.refuses(*a.format, slot->out_features(), slot->in_features());
  core::require(reason.empty(), "{}: {}: {}", slot->path(), config.method, reason);
  a.needs = method.needs() | a.format->needs() | Needs{.hessian = config.descent > 0};
  a.descent = config.descent;
  if (a.refinement) a.needs = a.needs | a.refinement->needs();
  a.reads_inputs = method.reads_inputs();
  rotate(a, activation, config, seed);
  return a;
}

// ---- embedding and head ----

// Its inputs are quantized only if a rule that names it says so; quant.activation is meant for the blocks.
ActivationConfig activation_of_end(const core::Slot& slot, const QuantConfig& config) {
  for (const Rule& rule : config.rules) {
    if (matches(rule.match, slot) && rule.activation.find("bits") != nullptr) return activation_of(slot, config);
  }
  return {};
}

// Null: nothing is done to it. named: the rule that names it, or null.
std::optional<Assignment> end_on_grid(core::Slot* slot, const WeightConfig& weight, const Rule* named,
                                      const QuantConfig& config, uint64_t seed) {
  const auto where = [&](const char* key) { return named == nullptr ? config.where("method") : named->where(key); };
  Assignment a{slot, weight, nullptr, nullptr, {}};
  a.weight.incoherence = {};  // rows of the embedding are looked up
  const ActivationConfig activation = activation_of_end(*slot, config);
  const bool looked_up = slot->role() == core::Role::embed_tokens;
  core::require(!activation.covered() || (a.weight.covered() && !looked_up && !activation.is_static()),
                "{}: inputs of {} cannot be quantized so: dynamic ones of an lm_head with weight.bits below 16 can.",
                where("activation"), slot->path());
  if (!a.weight.covered()) return std::nullopt;
  core::require(a.weight.range != "importance",
                "{}: the inputs of {} are not measured. Give the rule range: minmax or mse.", where("weight"),
                slot->path());
  a.format = make_format(a.weight, slot->path(), slot->in_features(), seed);
  a.input = make_input_quantizer(activation, slot->path(), slot->in_features(), seed);
  return a;
}

// Null when no rule gives the end bits to quantize it with, and the method brings no codes for it.
std::optional<Assignment> assignment_of_end(core::Slot* slot, const QuantConfig& config, uint64_t seed) {
  const Rule* named = nullptr;
  bool gives_bits = false;
  for (const Rule& rule : config.rules) {
    if (!matches(rule.match, *slot)) continue;
    named = &rule;
    core::require(rule.weight.find("incoherence") == nullptr,
                  "{}: {} is not rotated, as rows of the embedding are looked up. Remove incoherence.",
                  rule.where("weight"), slot->path());
    gives_bits = gives_bits || rule.weight.find("bits") != nullptr;
  }
  if (config.method == QuantConfig::kNone || (named == nullptr && !config.brings_codes())) return std::nullopt;
  core::require(gives_bits || config.brings_codes(),
                "{}: `{}` needs weight.bits: {} stays in full precision unless a rule says how many.",
                named == nullptr ? "" : named->where("match"), named == nullptr ? "" : named->match, slot->path());
  return end_on_grid(slot, weight_of(*slot, config), named, config, seed);
}

}  // namespace

Coding grid_coding(const core::Slot& slot, const WeightConfig& weight, uint64_t seed) {
  return {make_format(weight, slot.path(), slot.in_features(), seed)};
}

namespace {

// A linear that takes the codes of another must be able to.
void check_shared_codes(const std::vector<Assignment>& assignments) {
  for (const Assignment& a : assignments) {
    if (a.codes_of.empty()) continue;
    const auto owner = std::find_if(assignments.begin(), assignments.end(),
                                    [&](const Assignment& other) { return other.slot->path() == a.codes_of; });
    core::require(
        owner != assignments.end() && owner->format && owner->slot->out_features() == a.slot->out_features() &&
            owner->slot->in_features() == a.slot->in_features() && owner->format->code_bits() == a.format->code_bits(),
        "{}: it shares the codes of {}, which has not as many of as many bits. Give both the same weight.bits.",
        a.slot->path(), a.codes_of);
  }
}

// A file without codes would be measured as full precision; what it has as floats is no part of the bits per weight.
void check_codes_brought(const std::vector<Assignment>& assignments, const QuantConfig& config) {
  std::vector<std::string> dense;
  for (const Assignment& a : assignments) {
    if (!a.weight.covered()) dense.push_back(a.slot->path());
  }
  core::require(
      dense.size() < assignments.size(),
      "{}: {} has codes of no linear of this model that a rule leaves to it. Name a quantized GGUF file of it.",
      config.where("method"), config.method);
  if (dense.empty()) return;
  core::warn_once(
      fmt::format("quant.method: {}: {} of {} linears are in full precision and no part of bits/weight: {}{}",
                  config.method, dense.size(), assignments.size(), dense.front(), dense.size() > 1 ? ", …" : ""));
}

}  // namespace

std::vector<Assignment> assign(const QuantConfig& config, core::Model& model, uint64_t seed, const CodingOf& coding) {
  require_every_rule_to_match(config, model);
  std::vector<Assignment> assignments;
  for (core::Slot* slot : model.slots()) assignments.push_back(assignment_of(slot, config, seed, coding));
  for (core::Slot* slot : {static_cast<core::Slot*>(&model.embedding()), &model.head()}) {
    if (auto end = assignment_of_end(slot, config, seed)) assignments.push_back(std::move(*end));
  }
  check_shared_codes(assignments);
  if (config.brings_codes()) check_codes_brought(assignments, config);
  return assignments;
}

bool needs_statistics(const std::vector<Assignment>& assignments) {
  return std::any_of(assignments.begin(), assignments.end(), [](const Assignment& a) {
    return a.needs.any() || a.reads_inputs || (a.input && a.input->config().is_static());
  });
}

}  // namespace quant
