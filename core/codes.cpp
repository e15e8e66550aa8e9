#include "core/codes.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "core/io/hash.h"

namespace core {

namespace {

int64_t row_bytes(int64_t columns, int64_t bits) { return (columns * bits + 7) / 8; }

void pack_row(const uint8_t* codes, uint8_t* packed, int64_t columns, int64_t bits) {
  uint32_t window = 0;  // bits not yet written, least significant first
  int64_t held = 0;
  for (int64_t j = 0; j < columns; ++j) {
    window |= static_cast<uint32_t>(codes[j]) << held;
    for (held += bits; held >= 8; held -= 8, window >>= 8) *packed++ = static_cast<uint8_t>(window);
  }
  if (held > 0) *packed = static_cast<uint8_t>(window);
}

void unpack_row(const uint8_t* packed, uint8_t* codes, int64_t columns, int64_t bits) {
  const uint32_t mask = (1u << bits) - 1;
  uint32_t window = 0;
  int64_t held = 0;
  for (int64_t j = 0; j < columns; ++j) {
    if (held < bits) {
      window |= static_cast<uint32_t>(*packed++) << held;
      held += 8;
    }
    codes[j] = static_cast<uint8_t>(window & mask);
    window >>= bits;
    held -= bits;
  }
}

// Rows per task, so that a task is worth its start.
int64_t grain(int64_t columns) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, columns)); }

}  // namespace

Codes::Codes(at::Tensor packed, int64_t columns, int64_t bits)
    : memory_(std::make_shared<Memory>()), rows_(packed.size(0)), columns_(columns), bits_(bits) {
  memory_->packed = std::move(packed);
}

Codes Codes::pack(const at::Tensor& codes, int64_t bits) {
  TORCH_CHECK(codes.dim() == 2 && codes.scalar_type() == at::kByte, "codes are a uint8 matrix, not ", codes.sizes());
  TORCH_CHECK(bits >= 1 && bits <= 8, "codes have 1 to 8 bits, not ", bits);
  const at::Tensor source = codes.cpu().contiguous();
  const int64_t rows = source.size(0), columns = source.size(1), width = row_bytes(columns, bits);
  TORCH_CHECK(source.numel() == 0 || source.max().item<uint8_t>() < (1 << bits), "a code does not fit ", bits, " bits");
  at::Tensor packed = at::empty({rows, width}, source.options());
  const auto* from = source.const_data_ptr<uint8_t>();
  auto* to = packed.mutable_data_ptr<uint8_t>();
  at::parallel_for(0, rows, grain(columns), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) pack_row(from + row * columns, to + row * width, columns, bits);
  });
  return Codes(packed.to(codes.device()), columns, bits);
}

Codes Codes::from_packed(at::Tensor packed, int64_t columns, int64_t bits) {
  TORCH_CHECK(packed.dim() == 2 && packed.scalar_type() == at::kByte && packed.size(1) == row_bytes(columns, bits),
              "packed codes of ", columns, " columns and ", bits, " bits are uint8 [O, ", row_bytes(columns, bits),
              "], not ", packed.sizes());
  return Codes(packed.contiguous(), columns, bits);
}

at::Tensor Codes::unpack() const {
  if (memory_->order != nullptr) return memory_->order->unpack_rows(at::arange(rows_, at::kLong));
  const at::Tensor& packed = memory_->packed;
  if (!packed.is_cpu()) return unpack_reference(packed, columns_, bits_);
  at::Tensor codes = at::empty({rows_, columns_}, packed.options());
  const auto* from = packed.const_data_ptr<uint8_t>();
  auto* to = codes.mutable_data_ptr<uint8_t>();
  const int64_t width = packed.size(1);
  at::parallel_for(0, rows_, grain(columns_), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) unpack_row(from + row * width, to + row * columns_, columns_, bits_);
  });
  return codes;
}

at::Tensor Codes::unpack_rows(const at::Tensor& index) const {
  if (memory_->order != nullptr) return memory_->order->unpack_rows(index);
  return Codes(memory_->packed.index_select(0, index), columns_, bits_).unpack();
}

at::Tensor Codes::packed() const {
  return memory_->order != nullptr ? pack(unpack(), bits_).memory_->packed : memory_->packed;
}

at::Device Codes::device() const { return memory_->order != nullptr ? at::Device(at::kCPU) : memory_->packed.device(); }

void Codes::keep_as(std::shared_ptr<const CodeOrder> order) const {
  TORCH_CHECK(device().is_cpu(), "codes are kept in another order on the CPU only");
  memory_->order = std::move(order);
  memory_->packed = at::Tensor();
}

at::Tensor unpack_reference(const at::Tensor& packed, int64_t columns, int64_t bits) {
  const auto options = packed.options().dtype(at::kLong);
  const at::Tensor first_bit = at::arange(columns, options) * bits;                   // [I]
  const at::Tensor byte = first_bit.div(8, "floor"), shift = first_bit.remainder(8);  // [I]
  const at::Tensor next = (byte + 1).clamp_max(packed.size(1) - 1);                   // a code spans at most two bytes
  const at::Tensor wide = packed.to(at::kInt);
  const at::Tensor window = wide.index_select(1, byte) + wide.index_select(1, next) * 256;  // [O, I]
  return at::bitwise_and(at::bitwise_right_shift(window, shift.to(at::kInt)), (1 << bits) - 1).to(at::kByte);
}

std::string Codes::hash() const {
  const at::Tensor bytes = packed().cpu().contiguous();
  return hash_codes(rows(), columns_, bits_, bytes.const_data_ptr(), bytes.nbytes());
}

}  // namespace core
