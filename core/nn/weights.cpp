#include "core/nn/weights.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/accumulate.h>
#include <fmt/format.h>

#include <atomic>
#include <functional>

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
at::Tensor over_mapping(std::shared_ptr<const TensorSource> source, const TensorView& view, at::ScalarType type) {
  void* data = const_cast<std::byte*>(view.data);
  return at::from_blob(
      data, view.shape, [source, view](void*) { source->release(view); }, at::TensorOptions(type));
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

// The values of an encoded tensor in another dtype, rows by rows; `intact` becomes false if a value is not finite.
at::Tensor decoded(const StoredTensor& stored, at::ScalarType type, std::atomic<bool>& intact) {
  at::Tensor to = at::empty(stored.shape, at::TensorOptions(type));
  const int64_t length = stored.shape.back(), rows = to.numel() / length;
  const at::Tensor flat = to.view({rows, length});
  const int64_t at_once = std::max<int64_t>(1, kChunk / length);
  at::parallel_for(0, rows, at_once, [&](int64_t begin, int64_t end) {
    const at::Tensor buffer = at::empty({at_once, length}, at::kFloat);
    for (int64_t first = begin; first < end; first += at_once) {
      const int64_t count = std::min(at_once, end - first);
      stored.decode(first, count, buffer.mutable_data_ptr<float>());
      const at::Tensor chunk = flat.narrow(0, first, count);
      chunk.copy_(buffer.narrow(0, 0, count));
      if (any_not_finite(chunk)) intact = false;
    }
  });
  return to;
}

// The tensor as it lies in the file where dtype and alignment allow it, otherwise a copy.
at::Tensor loaded(const std::shared_ptr<const TensorSource>& source, const StoredTensor& stored, at::ScalarType type,
                  std::atomic<bool>& intact) {
  if (!stored.view) return decoded(stored, type, intact);
  const at::Tensor mapped = over_mapping(source, *stored.view, *float_type(stored.view->dtype));
  const bool aligned = reinterpret_cast<uintptr_t>(stored.view->data) % 64 == 0;
  if (mapped.scalar_type() != type || !aligned) return converted(mapped, type, intact);
  at::parallel_for(0, mapped.numel(), kChunk, [&](int64_t begin, int64_t end) {
    if (any_not_finite(mapped.view(-1).narrow(0, begin, end - begin))) intact = false;
  });
  return mapped;
}

}  // namespace

Weights::Weights(std::shared_ptr<const TensorSource> source, at::ScalarType dtype, at::Device device)
    : source_(std::move(source)), dtype_(dtype), device_(device) {}

const at::Tensor* Weights::added(const std::string& name) const {
  if (added_ == nullptr) return nullptr;
  const auto found = added_->find(name);
  return found == added_->end() ? nullptr : &found->second;
}

int64_t Weights::length_of(const std::string& name) const {
  if (const at::Tensor* tensor = added(name)) return tensor->size(0);
  const std::vector<int64_t> shape = source_->stored(name).shape;
  require(!shape.empty(), "{}: {} is a single number.", source_->file_of(name), name);
  return shape.front();
}

void Weights::check(const std::string& name, at::IntArrayRef shape) const {
  if (noted_ != nullptr) noted_->insert(name);
  if (const at::Tensor* tensor = added(name)) {
    TORCH_CHECK(tensor->sizes() == shape, name, " is ", tensor->sizes(), ", not ", shape);
    return;
  }
  const StoredTensor stored = source_->stored(name);
  const std::string& file = source_->file_of(name);
  const bool is_gguf = file.ends_with(".gguf");
  require(!stored.view || float_type(stored.view->dtype).has_value(),
          "{}: {} has dtype {}, not a float. Use the unquantized checkpoint.", file, name, stored.type);
  require(shape.equals(stored.shape), "{}: {} is {}, {} asks for {}. {}.", file, name, shape_text(stored.shape),
          is_gguf ? "its configuration" : "config.json", shape_text(shape),
          is_gguf ? "Convert the model again" : "Use the config.json that belongs to this file");
}

LoadedTensor Weights::read(const std::string& name, at::IntArrayRef shape) const {
  const c10::InferenceMode off(
      false);  // a weight outlives the measurement that may load it, and is filled by other threads
  check(name, shape);
  if (const at::Tensor* tensor = added(name))
    return {tensor->to(device_, dtype_), 8.0 * static_cast<double>(c10::elementSize(dtype_))};
  const StoredTensor stored = source_->stored(name);
  std::atomic<bool> intact = true;
  const at::Tensor tensor = loaded(source_, stored, dtype_, intact);
  if (!intact) {
    const int64_t first = at::isfinite(tensor).logical_not_().view(-1).nonzero()[0].item<int64_t>();
    fail("{}: value at {} is not finite. Replace {}: it is damaged, or was saved from a model that had diverged.", name,
         index_text(first, shape), source_->file_of(name));
  }
  return {tensor.to(device_), stored.bits};
}

std::optional<TensorView> Weights::view(const std::string& name) const {
  return source_->has(name) ? source_->stored(name).view : std::nullopt;
}

bool Weights::same(const std::string& name, const at::Tensor& tensor) const {
  check(name, tensor.sizes());
  const StoredTensor stored = source_->stored(name);
  if (!stored.view) return tensor.scalar_type() == dtype_ && at::equal(read(name, tensor.sizes()).tensor, tensor);
  const at::Tensor file = over_mapping(source_, *stored.view, *float_type(stored.view->dtype)).view(-1);
  const at::Tensor flat = tensor.cpu().contiguous().view(-1);
  std::atomic<bool> equal = tensor.scalar_type() == dtype_;
  for_each_chunk(flat.numel(), [&](int64_t begin, int64_t count) {
    if (equal && !at::equal(file.narrow(0, begin, count).to(dtype_), flat.narrow(0, begin, count))) equal = false;
  });
  return equal;
}

int64_t Weights::bytes_in_memory() const {
  int64_t bytes = 0;
  for (const std::string& name : source_->names()) {
    const StoredTensor stored = source_->stored(name);
    const bool is_float = !stored.view || float_type(stored.view->dtype).has_value();
    const auto width = static_cast<int64_t>(is_float ? c10::elementSize(dtype_) : size_of(stored.view->dtype));
    bytes += c10::multiply_integers(stored.shape) * width;
  }
  return bytes;
}

}  // namespace core
