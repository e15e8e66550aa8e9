// A quantized weight as the blocks of a GGUF type, where that type holds it exactly. Levels of ours are s (k - z) or
// s k + m, with s and m stored as such or as multiples of what several groups share; those of a type
// (core/io/ggml_types.h) are s (c - zero) or s c + m. A code k becomes the code c of the same level: of the same or the
// opposite sign of s, or of half of it, where every other level is left out.
#pragma once

#include <cstddef>
#include <optional>
#include <vector>

#include "core/io/ggml_types.h"
#include "core/io/gguf_sidecar.h"
#include "quant/grids/affine.h"

namespace exports {

class CodedRows {
 public:
  // A format that is no plain grid (tables, windows, factors, branches) is held by no type.
  CodedRows(const quant::WeightFormat& format, const quant::Encoded& encoded);

  // All rows in blocks of the type, which decode to the very weight; none: the type does not hold it. The type's blocks
  // divide a row. map: how codes of the type follow from ours; without, block by block as it fits.
  std::optional<std::vector<std::byte>> in(const core::GgmlType& type, std::optional<core::CodeMap> map = {}) const;
  // Those that the first group allows.
  std::vector<core::CodeMap> maps(const core::GgmlType& type) const;

 private:
  struct Row;  // levels and codes of one row
  Row row(int64_t o) const;
  static bool put_block(const core::GgmlType& type, const Row& row, int64_t first, std::optional<core::CodeMap> map,
                        std::byte* to);

  at::Tensor codes_;                                 // [O, I] uint8
  at::Tensor decoded_;                               // [O, I] float32: what the blocks must decode to
  std::optional<quant::AffineGrid::Levels> levels_;  // none: no plain grid
};

}  // namespace exports
