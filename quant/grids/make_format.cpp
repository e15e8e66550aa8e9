#include "quant/grids/make_format.h"

#include "core/error.h"
#include "quant/grids/affine.h"
#include "quant/grids/codebook.h"

namespace quant {

std::shared_ptr<const ElementFormat> make_format(const WeightConfig& config, const std::string& path,
                                                 int64_t in_features, uint64_t seed) {
  core::require(config.group_size <= 0 || in_features % config.group_size == 0,
                "{}: group_size {} does not divide {} input features. Choose a divisor, or -1.", path,
                config.group_size, in_features);
  if (config.codebook != "uniform") return std::make_shared<CodebookGrid>(config, Place{path, seed});
  return std::make_shared<AffineGrid>(config, Place{path, seed});
}

}  // namespace quant
