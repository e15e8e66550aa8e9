#include "quant/grids/ggml_grid.h"

#include <fmt/ranges.h>

#include "core/error.h"

namespace quant {

WeightConfig weight_config_of(const core::GgmlGrid& grid, int64_t block) {
  WeightConfig config;
  config.bits = grid.bits;
  config.group_size = grid.group;
  config.symmetry = grid.has_minimum ? "asymmetric" : grid.step == 2 ? "midrise" : "signed_full";
  if (grid.has_minimum) config.zero_point = "min";
  config.scale_bits = grid.scale_bits;
  config.scale_zero = grid.is_two_level();
  if (grid.is_two_level()) config.scale_group = block / grid.group;
  return config;
}

namespace {

// The keys that a preset stands for, and no others.
core::Node keys_of(const core::GgmlType& type) {
  WeightConfig config = weight_config_of(type.grid, type.block), standard;
  const core::Node all = core::to_node(config), defaults = core::to_node(standard);
  core::Node keys = core::make_map();
  for (const auto& [key, value] : all.entries) {
    const core::Node* other = defaults.find(key);
    const bool says = key == "bits" || key == "group_size" || key == "symmetry" || other == nullptr ||
                      (value.is_scalar() && value.scalar != other->scalar);
    if (says) keys.entries.emplace_back(key, value);
  }
  // The larger side of two bits may lie on either side of 0.
  if (!type.grid.has_minimum && type.grid.bits == 2) {
    core::Node search = core::make_map();
    search.entries.emplace_back("both_signs", core::make_bool(true));
    keys.entries.emplace_back("range_search", std::move(search));
  }
  return keys;
}

// Puts what is in `from` beside what is there.
void merge(const core::Node& from, const std::string& preset, const std::string& path, core::Node& to) {
  for (const auto& [key, value] : from.entries) {
    core::Node* given = to.find(key);
    if (given == nullptr) {
      to.entries.emplace_back(key, value);
    } else if (value.is_map() && given->is_map()) {
      merge(value, preset, path + "." + key, *given);
    } else {
      core::require(given->is_scalar() && given->scalar == value.scalar,
                    "{} is {}, but preset: {} means {}. Remove one of the two.",
                    core::at(given->origin, path + "." + key), core::shown(*given), preset, value.scalar);
    }
  }
}

void expand(core::Node& weight, const std::string& path) {
  const core::Node* found = weight.find("preset");
  if (found == nullptr) return;
  const core::Node preset = *found;
  const core::GgmlType* type = preset.is_scalar() ? core::find_ggml_type(preset.scalar) : nullptr;
  core::require(type != nullptr && type->take_apart != nullptr, "{} is {}; it must be one of: {}.",
                core::at(preset.origin, path + ".preset"), core::shown(preset), fmt::join(presets(), ", "));
  std::erase_if(weight.entries, [](const auto& entry) { return entry.first == "preset"; });
  merge(keys_of(*type), preset.scalar, path, weight);
}

void expand_below(core::Node& node, const std::string& path) {
  for (size_t i = 0; i < node.items.size(); ++i) expand_below(node.items[i], fmt::format("{}[{}]", path, i));
  for (auto& [key, value] : node.entries) {
    const std::string below = path.empty() ? key : path + "." + key;
    if (key == "weight" && value.is_map()) expand(value, below);
    expand_below(value, below);
  }
}

}  // namespace

void expand_presets(core::Node& document) { expand_below(document, ""); }

}  // namespace quant
