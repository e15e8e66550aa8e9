// Which grid the variables of quant.weight ask for.
#pragma once

#include <memory>
#include <string>

#include "quant/grids/weight_format.h"

namespace quant {

// The format that a module's configuration asks for; error when it does not fit the shape: "<path>: group_size 48 does
// not divide 4864 input features. Choose a divisor, or -1."
std::shared_ptr<const ElementFormat> make_format(const WeightConfig& config, const std::string& path,
                                                 int64_t in_features, uint64_t seed = 0);

}  // namespace quant
