#include "replication/unread.h"

#include <algorithm>

#include "core/error.h"

namespace replication {

void refuse_unread(const quant::WeightConfig& weight, const std::string& strategy,
                   const std::vector<std::string>& keys) {
  quant::WeightConfig given = weight, standard;
  const core::Node values = core::to_node(given), defaults = core::to_node(standard);
  for (const auto& [name, value] : values.entries) {
    if (std::find(keys.begin(), keys.end(), name) == keys.end() || !value.is_scalar()) continue;
    const auto same = std::find_if(defaults.entries.begin(), defaults.entries.end(),
                                   [&, key = name, text = value.scalar](const auto& entry) {
                                     return entry.first == key && entry.second.scalar == text;
                                   });
    core::require(same != defaults.entries.end(),
                  "{} is not read with replication.strategy: {}. Remove one of the two.", weight.where(name), strategy);
  }
}

quant::WeightConfig without(const quant::WeightConfig& weight, const std::vector<std::string>& keys) {
  quant::WeightConfig given = weight, left;
  core::Node values = core::to_node(given);
  std::erase_if(values.entries,
                [&](const auto& entry) { return std::find(keys.begin(), keys.end(), entry.first) != keys.end(); });
  core::bind(values, left, "quant.weight");
  return left;
}

}  // namespace replication
