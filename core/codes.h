// Codes of a weight, bit-packed. Everyone but this class sees one code per byte; disk and hash use the one canonical
// layout; kernels may keep the codes in an order of their own, which then takes its place in memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>

namespace core {

// The codes of an [O, I] matrix in another order than the canonical one.
class CodeOrder {
 public:
  virtual ~CodeOrder() = default;
  virtual at::Tensor unpack_rows(const at::Tensor& index) const = 0;  // [n] int64 -> [n, I] uint8
};

// A matrix [O, I] of codes of `bits` bits (1–8). Canonical layout: row-major, each row starts on a byte, code j of a
// row lies in bits j·bits … (j+1)·bits − 1 of the row, least significant bit first. Unused bits at a row's end are
// zero. Copies share their memory.
class Codes {
 public:
  static Codes pack(const at::Tensor& codes, int64_t bits);  // [O, I] uint8, every code < 2^bits
  // packed: uint8 [O, ceil(I · bits / 8)], as `packed()` gives it. Error when the shape does not fit.
  static Codes from_packed(at::Tensor packed, int64_t columns, int64_t bits);

  at::Tensor unpack() const;                              // [O, I] uint8, on the device of the codes
  at::Tensor unpack_rows(const at::Tensor& index) const;  // [n] int64 -> [n, I] uint8
  at::Tensor packed() const;                              // canonical; made anew where another order is kept
  at::Device device() const;
  int64_t rows() const { return rows_; }
  int64_t columns() const { return columns_; }
  int64_t bits() const { return bits_; }
  int64_t stored_bits() const { return rows() * columns() * bits_; }  // without the padding at a row's end
  std::string hash() const;  // of shape, bits and canonical bytes; equal exactly when the codes are equal

  // This and all copies keep the same codes in `order` from now on, and the canonical ones no longer. On the CPU.
  void keep_as(std::shared_ptr<const CodeOrder> order) const;
  const std::shared_ptr<const CodeOrder>& order() const { return memory_->order; }  // null: the canonical one

 private:
  struct Memory {
    at::Tensor packed;  // one of the two
    std::shared_ptr<const CodeOrder> order;
  };
  Codes(at::Tensor packed, int64_t columns, int64_t bits);
  std::shared_ptr<Memory> memory_;
  int64_t rows_, columns_, bits_;
};

// The same as `Codes::unpack`, in tensor operations: the definition, and the path of devices without a kernel.
at::Tensor unpack_reference(const at::Tensor& packed, int64_t columns, int64_t bits);

}  // namespace core
