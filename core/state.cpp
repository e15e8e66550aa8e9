#include "core/state.h"

#include <array>

namespace core {

const char* name_of(Kind kind) {
  constexpr std::array kNames{"weight",
                              "bias",
                              "embedding",
                              "norm",
                              "codes",
                              "zero_codes",
                              "scale",
                              "zero_point",
                              "scale_codes",
                              "offset",
                              "table",
                              "activation_scale",
                              "activation_zero_point",
                              "low_rank",
                              "row_scale",
                              "column_scale",
                              "gate",
                              "token_gate",
                              "minimum",
                              "prefix"};
  return kNames.at(static_cast<size_t>(kind));
}

Cost& Cost::operator+=(const Cost& other) {
  weights += other.weights;
  code_bits += other.code_bits;
  parameter_bits += other.parameter_bits;
  dense_bits += other.dense_bits;
  macs += other.macs;
  bytes_read += other.bytes_read;
  return *this;
}

Cost Cost::running() const { return {.macs = macs, .bytes_read = bytes_read}; }

}  // namespace core
