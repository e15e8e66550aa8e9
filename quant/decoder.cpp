#include "quant/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "quant/affine.h"

namespace quant {

const at::Tensor& Parameters::at(const std::string& name) const {
  const auto found = std::find_if(begin(), end(), [&](const Parameter& p) { return p.name == name; });
  TORCH_CHECK(found != end(), "this decoder has no parameter ", name);
  return found->tensor;
}

int64_t parameter_bits(const Parameters& parameters) {
  int64_t bits = 0;
  for (const Parameter& p : parameters) bits += c10::multiply_integers(p.shape) * p.stored_bits;
  return bits;
}

std::shared_ptr<const Decoder> make_decoder(const WeightConfig& config, const std::string& path, int64_t in_features) {
  core::require(config.group_size <= 0 || in_features % config.group_size == 0,
                "{}: group_size {} does not divide {} input features. Choose a divisor, or -1.", path,
                config.group_size, in_features);
  return std::make_shared<AffineGrid>(config);
}

}  // namespace quant
