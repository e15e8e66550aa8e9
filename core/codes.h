// Codes of a weight, bit-packed. Everyone but this class sees one code per byte; disk and hash use the one canonical
// layout.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>

namespace core {

// A matrix [O, I] of codes of `bits` bits (1–8). Canonical layout: row-major, each row starts on a byte, code j of a
// row lies in bits j·bits … (j+1)·bits − 1 of the row, least significant bit first. Unused bits at a row's end are
// zero.
class Codes {
 public:
  static Codes pack(const at::Tensor& codes, int64_t bits);  // [O, I] uint8, every code < 2^bits
  // packed: uint8 [O, ceil(I · bits / 8)], as `packed()` gives it. Error when the shape does not fit.
  static Codes from_packed(at::Tensor packed, int64_t columns, int64_t bits);

  at::Tensor unpack() const;  // [O, I] uint8, on the device of the codes
  const at::Tensor& packed() const { return packed_; }
  int64_t rows() const { return packed_.size(0); }
  int64_t columns() const { return columns_; }
  int64_t bits() const { return bits_; }
  int64_t stored_bits() const { return rows() * columns() * bits_; }  // without the padding at a row's end
  std::string hash() const;  // of shape, bits and canonical bytes; equal exactly when the codes are equal

 private:
  Codes(at::Tensor packed, int64_t columns, int64_t bits)
      : packed_(std::move(packed)), columns_(columns), bits_(bits) {}
  at::Tensor packed_;
  int64_t columns_, bits_;
};

// The same as `Codes::unpack`, in tensor operations: the definition, and the path of devices without a kernel.
at::Tensor unpack_reference(const at::Tensor& packed, int64_t columns, int64_t bits);

}  // namespace core
