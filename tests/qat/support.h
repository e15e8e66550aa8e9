// What the tests of training share.
#pragma once

#include <memory>

#include "replication/config.h"

namespace quant {

// The format that training goes on with: a grid's or a strategy's, with other variables.
inline std::shared_ptr<const WeightFormat> restored_format_factory(const WeightFormat& format,
                                                                   const WeightConfig& weight, int64_t in_features,
                                                                   int64_t out_features) {
  return replication::restored_format(weight, format.replication(), format.place(), {out_features, in_features},
                                      "test");
}

}  // namespace quant
