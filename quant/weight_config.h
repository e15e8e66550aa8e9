// The variables of weight quantization (docs/keys.md), for the whole model or, through rules, for one module.
#pragma once

#include <string>

#include "core/config/keys.h"

namespace quant {

struct WeightConfig : core::Section {
  static constexpr int64_t kFullPrecision = 16;  // `bits` of a module that is left as it is

  int64_t bits = 4;
  int64_t group_size = 64;

  void keys(core::Keys& k) override;
  void check() const override;
  bool covered() const { return bits != kFullPrecision; }
};

}  // namespace quant
