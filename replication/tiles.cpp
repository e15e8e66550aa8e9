#include "replication/tiles.h"

#include <ATen/ATen.h>

namespace replication {

at::Tensor to_tiles(const at::Tensor& matrix) {
  const int64_t O = matrix.size(0), n = matrix.size(1);
  TORCH_CHECK(O % kTileSide == 0 && n % kTileSide == 0, "no whole tiles in ", matrix.sizes());
  return matrix.reshape({O / kTileSide, kTileSide, n / kTileSide, kTileSide})
      .permute({0, 2, 1, 3})
      .reshape({-1, kTileWeights});
}

at::Tensor from_tiles(const at::Tensor& tiles, int64_t rows, int64_t columns) {
  return tiles.reshape({rows / kTileSide, columns / kTileSide, kTileSide, kTileSide})
      .permute({0, 2, 1, 3})
      .reshape({rows, columns});
}

}  // namespace replication
