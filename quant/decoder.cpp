#include "quant/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/codebook.h"

namespace quant {

bool Parameters::has(const std::string& name) const {
  return std::any_of(begin(), end(), [&](const Parameter& p) { return p.name == name; });
}

const at::Tensor& Parameters::at(const std::string& name) const {
  const auto found = std::find_if(begin(), end(), [&](const Parameter& p) { return p.name == name; });
  TORCH_CHECK(found != end(), "this decoder has no parameter ", name);
  return found->tensor;
}

at::Tensor& Parameters::at(const std::string& name) { return const_cast<at::Tensor&>(std::as_const(*this).at(name)); }

int64_t parameter_bits(const Parameters& parameters) {
  int64_t bits = 0;
  for (const Parameter& p : parameters) bits += c10::multiply_integers(p.shape) * p.stored_bits;
  return bits;
}

at::Tensor Decoder::product(const at::Tensor&, const Multiply&, const at::Tensor&, const Parameters&) const {
  TORCH_CHECK(false, "the decoder ", name(), " multiplies with its weight alone");
}

ElementGrid Decoder::element_grid(const Parameters&, int64_t, int64_t) const {
  TORCH_CHECK(false, "the decoder ", name(), " does not choose codes one by one");
}

EncodedColumns Decoder::encode_columns(const at::Tensor&, const Parameters&, int64_t, int64_t) const {
  TORCH_CHECK(false, "the decoder ", name(), " chooses codes one by one");
}

std::shared_ptr<const Decoder> make_decoder(const WeightConfig& config, const std::string& path, int64_t in_features,
                                            uint64_t seed) {
  core::require(config.group_size <= 0 || in_features % config.group_size == 0,
                "{}: group_size {} does not divide {} input features. Choose a divisor, or -1.", path,
                config.group_size, in_features);
  if (config.codebook != "uniform") return std::make_shared<CodebookGrid>(config, Place{path, seed});
  return std::make_shared<AffineGrid>(config, Place{path, seed});
}

}  // namespace quant
