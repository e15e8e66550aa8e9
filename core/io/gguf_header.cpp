#include "core/io/gguf_header.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <set>

#include "core/error.h"
#include "core/io/json_text.h"

namespace core {
namespace {

constexpr const char* kGgufAdvice = "Download or write the file again.";
constexpr uint32_t kText = 8, kList = 9;

struct ValueType {
  const char* name;
  size_t bytes;  // of a value; 0: a text or a list
};
constexpr std::array<ValueType, 13> kValueTypes{{{"uint8", 1},
                                                 {"int8", 1},
                                                 {"uint16", 2},
                                                 {"int16", 2},
                                                 {"uint32", 4},
                                                 {"int32", 4},
                                                 {"float32", 4},
                                                 {"bool", 1},
                                                 {"string", 0},
                                                 {"array", 0},
                                                 {"uint64", 8},
                                                 {"int64", 8},
                                                 {"float64", 8}}};

// Reads one file from front to back.
class GgufParser {
 public:
  GgufParser(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  GgufHeader parse() {
    check_magic();
    const uint64_t tensors = little(8, "the number of tensors"), keys = little(8, "the number of keys");
    check_count(tensors, /*least_bytes=*/8 + 4 + 8 + 4 + 8, "tensors");
    check_count(keys, /*least_bytes=*/8 + 4 + 1, "keys");
    GgufHeader header;
    for (uint64_t i = 0; i < keys; ++i) read_key(header.values);
    header.tensors.reserve(tensors);
    for (uint64_t i = 0; i < tensors; ++i) header.tensors.push_back(read_tensor());
    place(header);
    return header;
  }

 private:
  template <typename... Args>
  void check(bool fact, fmt::format_string<Args...> text, Args&&... args) const {
    if (!fact) fail("{}: {}. {}", file_, fmt::format(text, std::forward<Args>(args)...), kGgufAdvice);
  }

  size_t left() const { return bytes_.size() - at_; }

  std::string_view take(uint64_t bytes, std::string_view what) {
    check(bytes <= left(), "the file ends after {} bytes, within {}", bytes_.size(), what);
    const std::string_view taken = bytes_.substr(at_, bytes);
    at_ += bytes;
    return taken;
  }

  uint64_t little(size_t bytes, std::string_view what) {
    const std::string_view taken = take(bytes, what);
    uint64_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= static_cast<uint64_t>(static_cast<unsigned char>(taken[i])) << 8 * i;
    return value;
  }

  std::string_view text(std::string_view what) {
    const uint64_t length = little(8, what);
    check(length <= left(), "{} is {} bytes long, more than the {} that are left of the file", what, length, left());
    return take(length, what);
  }

  // A count that the rest of the file cannot hold is refused before anything is allocated.
  void check_count(uint64_t count, size_t least_bytes, std::string_view what) const {
    check(count <= left() / least_bytes, "the header announces {} {}, more than fit into the {} bytes of the file",
          count, what, bytes_.size());
  }

  void check_magic() {
    if (bytes_.starts_with("version https://git-lfs.git")) {
      fail("{}: this is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.", file_);
    }
    check(take(4, "the four letters GGUF") == "GGUF", "the file does not begin with GGUF");
    const uint64_t version = little(4, "the version");
    if ((version & 0xFFFF) == 0 && version != 0) {
      fail("{}: this GGUF file was written for big-endian machines. Convert the model again for little-endian ones.",
           file_);
    }
    check(version == 2 || version == 3, "GGUF version {} is not read, only 2 and 3", version);
  }

  void read_key(std::map<std::string, GgufValue>& values) {
    const std::string key(text("the name of a key"));
    check(is_utf8(key) && !key.empty(), "the key `{}` is not a name", printable(key));
    GgufValue value = read_value(printable(key));
    check(values.emplace(key, std::move(value)).second, "the key {} is there twice", printable(key));
  }

  GgufValue read_value(const std::string& shown) {
    GgufValue value;
    uint64_t type = little(4, shown), count = 1;
    check(type < kValueTypes.size(), "{} has the unknown type {}", shown, type);
    if (type == kList) {
      value.is_list = true;
      type = little(4, shown);
      check(type < kValueTypes.size() && type != kList, "{} is a list of the type {}, which is not read", shown, type);
      count = little(8, shown);
      const size_t least = type == kText ? 8 : kValueTypes[type].bytes;
      check(count <= left() / least, "{} is a list of {} values, more than the {} bytes left of the file hold", shown,
            count, left());
    }
    value.type = kValueTypes[type].name;
    for (uint64_t i = 0; i < count; ++i) read_one(static_cast<uint32_t>(type), shown, value);
    return value;
  }

  void read_one(uint32_t type, const std::string& shown, GgufValue& value) {
    if (type == kText) return value.texts.push_back(text(shown));
    const uint64_t bits = little(kValueTypes[type].bytes, shown);
    switch (type) {
      case 1:
        return value.integers.push_back(static_cast<int8_t>(bits));
      case 3:
        return value.integers.push_back(static_cast<int16_t>(bits));
      case 5:
        return value.integers.push_back(static_cast<int32_t>(bits));
      case 6:
        return value.numbers.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
      case 7:
        check(bits <= 1, "{} is {}, neither true nor false", shown, bits);
        return value.integers.push_back(static_cast<int64_t>(bits));
      case 10:
        check(bits <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()), "{} is {}, above 2^63 - 1", shown,
              bits);
        return value.integers.push_back(static_cast<int64_t>(bits));
      case 12:
        return value.numbers.push_back(std::bit_cast<double>(bits));
      default:
        return value.integers.push_back(static_cast<int64_t>(bits));
    }
  }

  GgufEntry read_tensor() {
    GgufEntry entry;
    entry.name = std::string(text("the name of a tensor"));
    const std::string shown = printable(entry.name);
    check(is_utf8(entry.name) && !entry.name.empty(), "the tensor `{}` has no proper name", shown);
    const uint64_t axes = little(4, shown);
    check(axes >= 1 && axes <= 4, "tensor {} has {} axes, not 1 to 4", shown, axes);
    uint64_t weights = 1;
    for (uint64_t i = 0; i < axes; ++i) {
      const uint64_t size = little(8, shown);
      const bool fits = size >= 1 && size <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()) &&
                        !__builtin_mul_overflow(weights, size, &weights);
      check(fits, "tensor {}: a size of {} in its shape is 0 or too large", shown, size);
      entry.shape.push_back(static_cast<int64_t>(size));
    }
    const uint64_t type = little(4, shown);
    entry.type = find_ggml_type(static_cast<uint32_t>(type));
    check(entry.type != nullptr, "tensor {} has the unknown element type {}. Types that are read: {}", shown, type,
          readable_ggml_types());
    check(entry.shape[0] % entry.type->block == 0, "tensor {}: rows of {} weights are not whole blocks of {} ({})",
          shown, entry.shape[0], entry.type->block, entry.type->name);
    const bool fits = !__builtin_mul_overflow(weights / static_cast<uint64_t>(entry.type->block),
                                              static_cast<uint64_t>(entry.type->block_bytes), &entry.bytes);
    check(fits, "tensor {}: the product of its shape is too large", shown);
    std::reverse(entry.shape.begin(), entry.shape.end());
    entry.begin = little(8, shown);  // from the start of the data, until place()
    return entry;
  }

  // Sorts by place, and checks that every tensor begins where the one before it ends, rounded up to the alignment.
  void place(GgufHeader& header) const {
    uint64_t alignment = 32;
    if (const auto found = header.values.find("general.alignment"); found != header.values.end()) {
      const GgufValue& value = found->second;
      const bool power = !value.is_list && value.integers.size() == 1 && value.integers[0] > 0 &&
                         value.integers[0] <= (1 << 20) &&
                         std::has_single_bit(static_cast<uint64_t>(value.integers[0]));
      check(power, "general.alignment is not a power of two up to 2^20");
      alignment = static_cast<uint64_t>(value.integers[0]);
    }
    const auto rounded_up = [&](uint64_t bytes) { return (bytes + alignment - 1) / alignment * alignment; };
    std::set<std::string> names;
    for (const GgufEntry& entry : header.tensors) {
      check(names.insert(entry.name).second, "the tensor {} is there twice", printable(entry.name));
    }
    std::sort(header.tensors.begin(), header.tensors.end(),
              [](const GgufEntry& a, const GgufEntry& b) { return a.begin < b.begin; });
    const uint64_t data = rounded_up(at_);
    uint64_t end = data;
    for (GgufEntry& entry : header.tensors) {
      const std::string shown = printable(entry.name);
      check(entry.begin <= bytes_.size(), "tensor {} begins {} bytes into the data, beyond the end of the file", shown,
            entry.begin);
      entry.begin += data;
      check(entry.begin == rounded_up(end), "tensor {} begins at byte {}, not where the one before it ends, at {}",
            shown, entry.begin, rounded_up(end));
      check(entry.begin <= bytes_.size() && entry.bytes <= bytes_.size() - entry.begin,
            "the file ends after {} bytes, within tensor {}, which takes {} bytes from byte {} on", bytes_.size(),
            shown, entry.bytes, entry.begin);
      end = entry.begin + entry.bytes;
    }
  }

  std::string_view bytes_;
  const std::string& file_;
  size_t at_ = 0;
};

}  // namespace

GgufHeader parse_gguf_header(std::string_view bytes, const std::string& file) {
  return GgufParser(bytes, file).parse();
}

}  // namespace core
