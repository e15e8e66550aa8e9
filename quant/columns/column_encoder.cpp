#include "quant/columns/column_encoder.h"

#include <ATen/ATen.h>

namespace quant {

EncodeColumns encoder_of(const WeightFormat& format, const Parameters& parameters, int64_t O, int64_t I) {
  if (format.order() == Order::elementwise) {
    return [grid = as_elements(format).element_grid(parameters, O, I)](const at::Tensor& w, int64_t first) {
      const ElementGrid part = grid.columns(first, w.size(1));
      const at::Tensor codes = part.encode(w);
      return EncodedColumns{codes, part.decode(codes)};
    };
  }
  return [&sequence = as_sequence(format), &parameters, I](const at::Tensor& w, int64_t first) {
    return sequence.encode_columns(w, parameters, first, I);
  };
}

int64_t column_block(const WeightFormat& format) {
  return format.order() == Order::elementwise ? 1 : as_sequence(format).column_block();
}

}  // namespace quant
