#include "quant/weight_config.h"

#include "core/error.h"

namespace quant {

void WeightConfig::keys(core::Keys& k) {
  k.key("bits", bits,
        "bits of a code, 1 to 8; 16 leaves the module in full precision and out of the bill's denominator", {1, 16});
  k.key("group_size", group_size,
        "weights of one row that share a scale and a zero point; -1: the whole row; 0: the whole matrix", {-1, 65536});
}

void WeightConfig::check() const {
  core::require(bits <= 8 || !covered(), "{} must be 1 to 8, or 16 for full precision, not {}.", where("bits"), bits);
}

}  // namespace quant
