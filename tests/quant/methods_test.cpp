// What holds for every method of the table, on a grid that all of them take: the same codes in every call, and a model
// whose outputs are no further from those of full precision than rounding to nearest leaves them.
#include <ATen/ATen.h>
#include <gmock/gmock.h>

#include "core/linalg.h"
#include "quant/linear/quantized_linear.h"
#include "quant/registry.h"
#include "quant/stage/apply_transforms.h"
#include "quant/stage/quantize.h"
#include "tests/support/calibrated.h"

namespace quant {
namespace {

struct Found {
  std::vector<std::string> hashes;  // of the codes
  double error;                     // of the last block's outputs: mean square, of that of the outputs
};

Found found_by(const std::string& method) {
  toy::Toy toy;
  const QuantConfig config =
      quant_config("{method: " + method + ", weight: {bits: 2, group_size: 32, zero_point: float}}");
  const std::vector<Assignment> assignments = assign(config, *toy.model);
  ApplyTransforms transform(transforms_of({}, config), assignments, /*propagate_error=*/true);
  Quantize quantize(config.methods.at(method).share(), method, assignments);
  core::HiddenStore full(4), quantized(4);
  const at::Tensor inputs = correlated_inputs(4 * 64, toy::kWidth).reshape({4, 1, 64, toy::kWidth});
  for (int64_t i = 0; i < 4; ++i) {
    full.put(i, inputs[i]);
    quantized.put(i, inputs[i]);
  }
  toy.walk({&transform, &quantize}, {.full = &full, .quantized = &quantized});
  Found found{{}, 0};
  double energy = 0;
  for (core::Slot* slot : toy.model->slots())
    found.hashes.push_back(dynamic_cast<const QuantizedLinear&>(slot->linear()).codes().hash());
  for (int64_t i = 0; i < 4; ++i) {
    found.error += core::sum_of_squares(quantized.get(i) - full.get(i));
    energy += core::sum_of_squares(full.get(i));
  }
  found.error /= energy;
  return found;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const auto& [name, method] : make_methods()) {
    if (!method->brings_codes()) names.push_back(name);  // those are there: stored_test.cpp
  }
  return names;
}

class EveryMethod : public ::testing::TestWithParam<std::string> {};

INSTANTIATE_TEST_SUITE_P(Table, EveryMethod, ::testing::ValuesIn(method_names()),
                         [](const auto& info) { return info.param; });

TEST_P(EveryMethod, FindsTheSameCodesAgainAndLosesNoMoreThanRoundingToNearest) {
  const Found once = found_by(GetParam()), again = found_by(GetParam()), nearest = found_by("rtn");
  EXPECT_EQ(once.hashes, again.hashes);
  EXPECT_GT(once.error, 0);
  if (GetParam() == "rtn") return;
  EXPECT_NE(once.hashes, nearest.hashes);
  EXPECT_LT(once.error, nearest.error);
}

}  // namespace
}  // namespace quant
