#include "core/nn/weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <fmt/format.h>

#include <atomic>
#include <functional>
#include <optional>

#include "core/error.h"

namespace core {

namespace {

constexpr int64_t kChunk = 32768;  // elements converted and checked at a time, so that the check finds them in cache

// Whether any of the numbers is infinite or nan: all exponent bits set. `Bits` has the width of the float.
template <typename Bits>
bool any_not_finite(const void* data, int64_t count, Bits exponent) {
  const auto* bits = static_cast<const Bits*>(data);
  Bits found = 0;
#pragma omp simd reduction(| : found)
  for (int64_t i = 0; i < count; ++i) found |= static_cast<Bits>((bits[i] & exponent) == exponent);
  return found != 0;
}

bool any_not_finite(const at::Tensor& x) {
  switch (x.scalar_type()) {
    case at::kFloat:
      return any_not_finite<uint32_t>(x.const_data_ptr(), x.numel(), 0x7f800000);
    case at::kBFloat16:
      return any_not_finite<uint16_t>(x.const_data_ptr(), x.numel(), 0x7f80);
    case at::kHalf:
      return any_not_finite<uint16_t>(x.const_data_ptr(), x.numel(), 0x7c00);
    default:
      return !at::isfinite(x).all().item<bool>();
  }
}

std::optional<at::ScalarType> float_type(DType dtype) {
  switch (dtype) {
    case DType::F64:
      return at::kDouble;
    case DType::F32:
      return at::kFloat;
    case DType::F16:
      return at::kHalf;
    case DType::BF16:
      return at::kBFloat16;
    default:
      return std::nullopt;
  }
}

// "[3, 5]": where element `flat` of a tensor of this shape is.
std::string index_text(int64_t flat, at::IntArrayRef shape) {
  std::string text;
  for (size_t axis = shape.size(); axis-- > 0; flat /= shape[axis]) {
    text = std::to_string(flat % shape[axis]) + (text.empty() ? "" : ", ") + text;
  }
  return "[" + text + "]";
}

std::string shape_text(at::IntArrayRef shape) {
  return fmt::format("[{}]", fmt::join(shape.begin(), shape.end(), ", "));
}

// The bytes of the file as a tensor that must not be written. It keeps the mapping alive; with it the pages go back to
// the system.
at::Tensor over_mapping(std::shared_ptr<const Checkpoint> checkpoint, const TensorView& view, at::ScalarType type) {
  void* data = const_cast<std::byte*>(view.data);
  return at::from_blob(
      data, view.shape, [checkpoint, view](void*) { checkpoint->release(view); }, at::TensorOptions(type));
}

// A tensor of the file, or a part of one.
struct FoundTensor {
  std::string name;  // of the whole
  TensorView view;
};

// Experts may lie in one tensor: experts.gate_up_proj [E, 2F, D], the gate above the up projection, and
// experts.down_proj [E, D, F]. Null: `name`, "….experts.7.up_proj.weight", is not in such a tensor.
std::optional<FoundTensor> in_fused(const Checkpoint& checkpoint, const std::string& name) {
  static const std::string kExperts = ".experts.";
  const size_t at = name.find(kExperts);
  if (at == std::string::npos) return std::nullopt;
  const size_t number = at + kExperts.size(), dot = name.find('.', number);
  if (dot == std::string::npos) return std::nullopt;
  const std::string linear = name.substr(dot + 1);
  const bool down = linear == "down_proj.weight", up = linear == "up_proj.weight";
  if (!down && !up && linear != "gate_proj.weight") return std::nullopt;
  const std::string fused = name.substr(0, number) + (down ? "down_proj" : "gate_up_proj");
  if (!checkpoint.has(fused)) return std::nullopt;
  TensorView part = checkpoint.at(fused);
  const auto expert = std::stoll(name.substr(number, dot - number));
  const int64_t parts = down ? 1 : 2;
  require(part.shape.size() == 3 && expert < part.shape[0] && part.shape[1] % parts == 0,
          "{}: {} is {}, and holds no {}. Use the config.json that belongs to this file.", checkpoint.file_of(fused),
          fused, shape_text(part.shape), name);
  const auto bytes = static_cast<int64_t>(part.bytes) / part.shape[0] / parts;
  part.data += bytes * (expert * parts + (up ? 1 : 0));
  part.bytes = bytes;
  part.shape = {part.shape[1] / parts, part.shape[2]};
  return FoundTensor{fused, part};
}

// Error (naming tensor and file) when it is not there.
FoundTensor find(const Checkpoint& checkpoint, const std::string& name) {
  if (!checkpoint.has(name)) {
    if (auto part = in_fused(checkpoint, name)) return *part;
  }
  return {name, checkpoint.at(name)};
}

// Calls work(begin, count) for every chunk of so many values, in parallel.
void for_each_chunk(int64_t values, const std::function<void(int64_t, int64_t)>& work) {
  at::parallel_for(0, values, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t start = begin; start < end; start += kChunk) work(start, std::min(kChunk, end - start));
  });
}

// Copies `from` into an own tensor of another dtype, chunk by chunk; `intact` becomes false if a value is not finite.
at::Tensor converted(const at::Tensor& from, at::ScalarType type, std::atomic<bool>& intact) {
  at::Tensor to = at::empty(from.sizes(), from.options().dtype(type));
  const at::Tensor flat_from = from.view(-1), flat_to = to.view(-1);
  for_each_chunk(from.numel(), [&](int64_t begin, int64_t count) {
    const at::Tensor chunk = flat_to.narrow(0, begin, count);
    chunk.copy_(flat_from.narrow(0, begin, count));
    if (any_not_finite(chunk)) intact = false;
  });
  return to;
}

}  // namespace

Weights::Weights(std::shared_ptr<const Checkpoint> checkpoint, at::ScalarType dtype, at::Device device)
    : checkpoint_(std::move(checkpoint)), dtype_(dtype), device_(device) {}

void Weights::check(const std::string& name, at::IntArrayRef shape) const {
  const auto [whole, view] = find(*checkpoint_, name);
  const std::string& file = checkpoint_->file_of(whole);
  require(float_type(view.dtype).has_value(), "{}: {} has dtype {}, not a float. Use the unquantized checkpoint.", file,
          name, name_of(view.dtype));
  require(shape.equals(view.shape),
          "{}: {} is {}, config.json asks for {}. Use the config.json that belongs to this file.", file, name,
          shape_text(view.shape), shape_text(shape));
}

LoadedTensor Weights::read(const std::string& name, at::IntArrayRef shape) const {
  const c10::InferenceMode off(
      false);  // a weight outlives the measurement that may load it, and is filled by other threads
  check(name, shape);
  const auto [whole, view] = find(*checkpoint_, name);
  const at::ScalarType stored = *float_type(view.dtype);
  const at::Tensor mapped = over_mapping(checkpoint_, view, stored);
  const bool aligned = reinterpret_cast<uintptr_t>(view.data) % 64 == 0;
  std::atomic<bool> intact = true;
  at::Tensor tensor = mapped;
  if (stored == dtype_ && aligned) {
    at::parallel_for(0, mapped.numel(), kChunk, [&](int64_t begin, int64_t end) {
      if (any_not_finite(mapped.view(-1).narrow(0, begin, end - begin))) intact = false;
    });
  } else {
    tensor = converted(mapped, dtype_, intact);
  }
  if (!intact) {
    const int64_t first = at::isfinite(tensor).logical_not_().view(-1).nonzero()[0].item<int64_t>();
    fail("{}: value at {} is not finite. Replace {}: it is damaged, or was saved from a model that had diverged.", name,
         index_text(first, shape), checkpoint_->file_of(whole));
  }
  return {tensor.to(device_), static_cast<int64_t>(size_of(view.dtype)) * 8};
}

std::optional<TensorView> Weights::view(const std::string& name) const {
  if (checkpoint_->has(name)) return checkpoint_->at(name);
  const auto part = in_fused(*checkpoint_, name);
  return part ? std::optional(part->view) : std::nullopt;
}

bool Weights::same(const std::string& name, const at::Tensor& tensor) const {
  check(name, tensor.sizes());
  const TensorView view = find(*checkpoint_, name).view;
  const at::Tensor file = over_mapping(checkpoint_, view, *float_type(view.dtype)).view(-1);
  const at::Tensor flat = tensor.cpu().contiguous().view(-1);
  std::atomic<bool> equal = tensor.scalar_type() == dtype_;
  for_each_chunk(flat.numel(), [&](int64_t begin, int64_t count) {
    if (equal && !at::equal(file.narrow(0, begin, count).to(dtype_), flat.narrow(0, begin, count))) equal = false;
  });
  return equal;
}

int64_t Weights::bytes_in_memory() const {
  int64_t bytes = 0;
  for (const std::string& name : checkpoint_->names()) {
    const TensorView& view = checkpoint_->at(name);
    const auto stored = static_cast<int64_t>(size_of(view.dtype));
    const auto width = static_cast<int64_t>(c10::elementSize(dtype_));
    bytes += static_cast<int64_t>(view.bytes) / stored * (float_type(view.dtype) ? width : stored);
  }
  return bytes;
}

}  // namespace core
