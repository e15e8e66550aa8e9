#include "core/io/safetensors_header.h"

#include <fmt/core.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <tuple>

#include "core/error.h"
#include "core/io/json_text.h"

namespace core {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeader = 100'000'000;  // bytes; the limit of the reference implementation
constexpr const char* kAdvice = "Download or write the file again.";

// Bits per element of all the types that the format knows; ours and those that we only measure.
const std::map<std::string_view, uint64_t> kBits = {
    {"F64", 64},        {"F32", 32},    {"F16", 16},    {"BF16", 16},   {"I64", 64},    {"I32", 32},
    {"I16", 16},        {"I8", 8},      {"U8", 8},      {"BOOL", 8},    {"U64", 64},    {"U32", 32},
    {"U16", 16},        {"C64", 64},    {"F8_E4M3", 8}, {"F8_E5M2", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
    {"F8_E5M2FNUZ", 8}, {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F4", 4}};

// The errors of one file.
class Header {
 public:
  Header(std::string_view bytes, const std::string& file) : bytes_(bytes), file_(file) {}

  SafetensorsHeader parse() {
    const std::string_view text = header_text();
    const json header = parse_json(text, {file_, "the header", kAdvice});
    SafetensorsHeader out;
    out.data_start = kLengthBytes + text.size();
    data_bytes_ = bytes_.size() - out.data_start;
    for (const auto& [name, value] : header.items()) {
      if (name == "__metadata__") {
        out.metadata = metadata(value);
      } else {
        out.tensors.push_back(entry(name, value));
      }
    }
    check_coverage(out.tensors);
    return out;
  }

 private:
  template <typename... Args>
  void check(bool fact, fmt::format_string<Args...> text, Args&&... args) const {
    if (!fact) fail("{}: {}. {}", file_, fmt::format(text, std::forward<Args>(args)...), kAdvice);
  }

  std::string_view header_text() const {
    if (bytes_.substr(0, 27) == "version https://git-lfs.git") {
      fail("{}: this is a Git LFS pointer, not the file itself. Run `git lfs pull` where it came from.", file_);
    }
    check(bytes_.size() >= kLengthBytes, "{} bytes are too few for the 8 bytes of the header length", bytes_.size());
    uint64_t length = 0;
    for (uint64_t i = 0; i < kLengthBytes; ++i) {
      length |= static_cast<uint64_t>(static_cast<unsigned char>(bytes_[i])) << (8 * i);
    }
    check(length <= kMaxHeader, "the header length {} is above the limit of {} bytes", length, kMaxHeader);
    check(length <= bytes_.size() - kLengthBytes, "the header length {} goes beyond the end of the file ({} bytes)",
          length, bytes_.size());
    const std::string_view text = bytes_.substr(kLengthBytes, length);
    check(!text.empty() && text.front() == '{', "the header does not begin with `{{`");
    const size_t last = text.find_last_not_of(' ');
    check(text[last] == '}', "the header does not end with `}}` (and spaces)");
    return text;
  }

  std::map<std::string, std::string> metadata(const json& value) const {
    check(value.is_object(), "__metadata__ must map texts to texts, but is {}", value.type_name());
    std::map<std::string, std::string> out;
    for (const auto& [key, item] : value.items()) {
      check(item.is_string(), "__metadata__ must map texts to texts, but `{}` is {}", printable(key), item.type_name());
      out[key] = item.get<std::string>();
    }
    return out;
  }

  HeaderEntry entry(const std::string& name, const json& value) const {
    const std::string shown = printable(name);
    check(value.is_object(), "tensor `{}` must be an object with dtype, shape and data_offsets", shown);
    for (const char* key : {"dtype", "shape", "data_offsets"}) {
      check(value.contains(key), "tensor `{}` has no {}", shown, key);
    }
    check(value["dtype"].is_string(), "tensor `{}`: dtype must be a text", shown);
    HeaderEntry out;
    out.name = name;
    out.dtype = value["dtype"].get<std::string>();
    out.shape = shape(shown, value["shape"]);
    read_offsets(shown, value["data_offsets"], out);
    check_size(shown, out);
    return out;
  }

  std::vector<int64_t> shape(const std::string& shown, const json& value) const {
    check(value.is_array(), "tensor `{}`: shape must be a list", shown);
    std::vector<int64_t> out;
    for (const json& item : value) {
      const bool fits = item.is_number_unsigned() && item.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
      check(fits, "tensor `{}`: {} in its shape is not a whole number from 0 to 2^63 - 1", shown,
            printable(item.dump()));
      out.push_back(item.get<int64_t>());
    }
    return out;
  }

  void read_offsets(const std::string& shown, const json& value, HeaderEntry& out) const {
    const bool pair =
        value.is_array() && value.size() == 2 && value[0].is_number_unsigned() && value[1].is_number_unsigned();
    check(pair, "tensor `{}`: data_offsets must be two whole numbers", shown);
    out.begin = value[0].get<uint64_t>();
    out.end = value[1].get<uint64_t>();
    check(out.begin <= out.end, "tensor `{}`: data_offsets begin at {} and end before, at {}", shown, out.begin,
          out.end);
    check(out.end <= data_bytes_, "tensor `{}`: data_offsets end at {}, beyond the {} bytes of data in the file", shown,
          out.end, data_bytes_);
  }

  // The byte length must be what dtype and shape take. Of a type that nobody knows, only `at` complains.
  void check_size(const std::string& shown, const HeaderEntry& entry) const {
    uint64_t elements = 1, bits = 0;  // a 0 is multiplied in last, so that [2^40, 2^40, 0] overflows as well
    bool fits = true, empty = false;
    for (const int64_t size : entry.shape) {
      if (size == 0)
        empty = true;
      else
        fits = fits && !__builtin_mul_overflow(elements, static_cast<uint64_t>(size), &elements);
    }
    const auto known = kBits.find(entry.dtype);
    const uint64_t each = known == kBits.end() ? 8 : known->second;
    fits = fits && !__builtin_mul_overflow(elements, each, &bits) && bits <= static_cast<uint64_t>(INT64_MAX);
    check(fits, "tensor `{}`: the product of its shape is too large", shown);
    if (known == kBits.end()) return;
    if (empty) bits = 0;
    const std::string shape = json(entry.shape).dump();
    check(bits % 8 == 0, "tensor `{}`: {} {} does not fill whole bytes", shown, entry.dtype, printable(shape));
    check(entry.end - entry.begin == bits / 8, "tensor `{}`: {} {} takes {} bytes, but data_offsets give it {}", shown,
          entry.dtype, printable(shape), bits / 8, entry.end - entry.begin);
  }

  // Sorts by place; the tensors must then lie end to end and fill the data.
  void check_coverage(std::vector<HeaderEntry>& tensors) const {
    std::sort(tensors.begin(), tensors.end(), [](const HeaderEntry& a, const HeaderEntry& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t covered = 0;
    const HeaderEntry* before = nullptr;
    for (const HeaderEntry& entry : tensors) {
      check(entry.begin <= covered, "{} bytes of data before tensor `{}` belong to no tensor", entry.begin - covered,
            printable(entry.name));
      check(entry.begin >= covered, "tensors `{}` and `{}` overlap: one ends at {}, the other begins at {}",
            printable(before == nullptr ? "" : before->name), printable(entry.name), covered, entry.begin);
      covered = entry.end;
      before = &entry;
    }
    check(covered == data_bytes_, "the last {} bytes of data belong to no tensor", data_bytes_ - covered);
  }

  std::string_view bytes_;
  const std::string& file_;
  uint64_t data_bytes_ = 0;
};

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view bytes, const std::string& file) {
  return Header(bytes, file).parse();
}

}  // namespace core
