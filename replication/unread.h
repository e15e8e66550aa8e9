// Variables of quant.weight that a strategy's format has no use for: setting one is a mistake. Only values other than
// the default count, because a resolved file and a checkpoint give every key.
#pragma once

#include <string>
#include <vector>

#include "quant/grids/weight_config.h"

namespace replication {

// Error: "<file:line: quant.weight.offset> is not read by parity_sign. Remove it."
void refuse_unread(const quant::WeightConfig& weight, const std::string& strategy,
                   const std::vector<std::string>& keys);

// The same with these at their defaults.
quant::WeightConfig without(const quant::WeightConfig& weight, const std::vector<std::string>& keys);

}  // namespace replication
