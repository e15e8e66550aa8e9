// The order in which weights are coded one after the other: tiles of 16 rows × 16 columns, row-major inside. A tile
// stands alone, so blocks of 16 columns can be coded from left to right with the errors of earlier ones spread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace replication {

constexpr int64_t kTileSide = 16;
constexpr int64_t kTileWeights = kTileSide * kTileSide;

// [O, n] -> [tiles, 256]; O and n are multiples of 16.
at::Tensor to_tiles(const at::Tensor& matrix);
// The reverse: [tiles, 256] -> [O, n].
at::Tensor from_tiles(const at::Tensor& tiles, int64_t rows, int64_t columns);

}  // namespace replication
