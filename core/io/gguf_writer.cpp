#include "core/io/gguf_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <memory>
#include <type_traits>

#include "core/error.h"
#include "core/io/files.h"

namespace core {
namespace {

static_assert(std::endian::native == std::endian::little, "GGUF files are little-endian");

constexpr size_t kTensorAlignment = 32;      // of the tensors' bytes, what readers take where the file does not say
constexpr size_t kAtOnce = size_t{1} << 22;  // bytes

size_t padded(size_t bytes) { return (bytes + kTensorAlignment - 1) / kTensorAlignment * kTensorAlignment; }

// The numbers of the value types (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
template <class T>
constexpr uint32_t type_number() {
  if constexpr (std::is_same_v<T, uint16_t>) return 2;
  if constexpr (std::is_same_v<T, uint32_t>) return 4;
  if constexpr (std::is_same_v<T, int32_t>) return 5;
  if constexpr (std::is_same_v<T, float>) return 6;
  if constexpr (std::is_same_v<T, bool>) return 7;
  if constexpr (std::is_same_v<T, std::string>) return 8;
}
constexpr uint32_t kListType = 9;

class HeaderBytes {
 public:
  template <class T>
  void number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void text(const std::string& value) {
    number(uint64_t{value.size()});
    bytes_ += value;
  }
  void fill(size_t size) { bytes_.resize(size, '\0'); }
  const std::string& bytes() const { return bytes_; }

 private:
  std::string bytes_;
};

template <class T>
void put_value(HeaderBytes& to, const T& value) {
  if constexpr (std::is_same_v<T, std::string>) {
    to.text(value);
  } else if constexpr (std::is_same_v<T, bool>) {
    to.number(uint8_t{value});
  } else {
    to.number(value);
  }
}

template <class T>
void put_typed(HeaderBytes& to, const T& value) {
  to.number(type_number<T>());
  put_value(to, value);
}

template <class T>
void put_typed(HeaderBytes& to, const std::vector<T>& values) {
  to.number(kListType);
  to.number(type_number<T>());
  to.number(uint64_t{values.size()});
  for (const T& value : values) put_value(to, value);
}

std::string part_name(const std::string& path, size_t index, size_t count) {
  constexpr std::string_view kEnding = ".gguf";
  const std::string stem = path.ends_with(kEnding) ? path.substr(0, path.size() - kEnding.size()) : path;
  return fmt::format("{}-{:05}-of-{:05}.gguf", stem, index + 1, count);
}

}  // namespace

void GgufWriter::add(const std::string& name, const GgmlType& type, std::vector<int64_t> shape) {
  tensors_.push_back({name, &type, std::move(shape), {}});
}

void GgufWriter::append(std::span<const std::byte> rows) {
  const int64_t at = waiting_.reserve(rows.size());
  waiting_.write(at, rows.data(), rows.size());
  tensors_.back().pieces.emplace_back(at, rows.size());
  tensors_.back().bytes += rows.size();
}

int64_t GgufWriter::bytes() const {
  size_t sum = 0;
  for (const Tensor& tensor : tensors_) sum += tensor.bytes;
  return static_cast<int64_t>(sum);
}

std::vector<GgufWriter::Part> GgufWriter::parts(int64_t most) const {
  std::vector<Part> all;
  size_t first = 0, bytes = 0;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    if (i > first && bytes + tensors_[i].bytes > static_cast<size_t>(most)) {
      all.push_back(Part(tensors_).subspan(first, i - first));
      first = i;
      bytes = 0;
    }
    bytes += tensors_[i].bytes;
  }
  all.push_back(Part(tensors_).subspan(first));
  return all;
}

void GgufWriter::write_part(AtomicFile& file, const GgufKeyValues& keys, Part part) const {
  HeaderBytes header;
  for (const char letter : {'G', 'G', 'U', 'F'}) header.number(letter);
  header.number(uint32_t{3});  // the version of the format
  header.number(uint64_t{part.size()});
  header.number(uint64_t{keys.size()});
  for (const auto& [name, value] : keys) {
    header.text(name);
    std::visit([&](const auto& typed) { put_typed(header, typed); }, value);
  }
  size_t at = 0;
  for (const Tensor& tensor : part) {
    header.text(tensor.name);
    header.number(static_cast<uint32_t>(tensor.shape.size()));
    for (size_t axis = tensor.shape.size(); axis-- > 0;) header.number(static_cast<uint64_t>(tensor.shape[axis]));
    header.number(tensor.type->id);
    header.number(uint64_t{at});
    at += padded(tensor.bytes);
  }
  header.fill(padded(header.bytes().size()));
  file.write(header.bytes());
  std::vector<char> buffer;
  for (const Tensor& tensor : part) {
    for (auto [place, bytes] : tensor.pieces) {
      for (; bytes > 0; bytes -= buffer.size(), place += static_cast<int64_t>(buffer.size())) {
        buffer.resize(std::min(bytes, kAtOnce));
        waiting_.read(place, buffer.data(), buffer.size());
        file.write(buffer.data(), buffer.size());
      }
    }
    file.write(std::string(padded(tensor.bytes) - tensor.bytes, '\0'));
  }
}

std::vector<std::string> GgufWriter::write(const std::string& path, const GgufKeyValues& keys, int64_t most) const {
  const std::vector<Part> all = parts(most);
  std::vector<std::string> names;
  std::vector<std::unique_ptr<AtomicFile>> files;
  for (size_t i = 0; i < all.size(); ++i) {
    GgufKeyValues own = i == 0 ? keys : GgufKeyValues{};
    if (all.size() > 1) {
      own.emplace_back("split.no", static_cast<uint16_t>(i));
      own.emplace_back("split.count", static_cast<uint16_t>(all.size()));
      own.emplace_back("split.tensors.count", static_cast<int32_t>(tensors_.size()));
    }
    names.push_back(all.size() == 1 ? path : part_name(path, i, all.size()));
    files.push_back(std::make_unique<AtomicFile>(names.back()));
    write_part(*files.back(), own, all[i]);
  }
  for (const auto& file : files) file->commit();
  return names;
}

}  // namespace core
