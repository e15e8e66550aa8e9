// The writer: tensors in an order that aligns them without holes, which the format forbids.
#include <algorithm>
#include <nlohmann/json.hpp>
#include <set>
#include <stdexcept>
#include <tuple>

#include "core/io/files.h"
#include "core/io/json_text.h"
#include "core/io/safetensors.h"

namespace core {
namespace {

constexpr size_t kAlignment = 64;  // bytes; a cache line, and what vector loads of a mapped weight want

// A wrong list is our own bug, not the user's.
void demand(bool fact, const std::string& name, const char* what) {
  if (!fact) throw std::logic_error("write_safetensors: tensor `" + printable(name) + "`: " + what);
}

size_t bytes_of(const TensorToWrite& tensor) {
  size_t bytes = size_of(tensor.dtype);
  for (const int64_t size : tensor.shape) {
    demand(size >= 0, tensor.name, "negative size");
    demand(!__builtin_mul_overflow(bytes, static_cast<size_t>(size), &bytes), tensor.name, "size overflows");
  }
  demand(bytes == 0 || tensor.data != nullptr, tensor.name, "no data");
  return bytes;
}

// Whole cache lines first, then by falling element size: each tensor begins at a multiple of what its element needs.
std::vector<const TensorToWrite*> in_file_order(const std::vector<TensorToWrite>& tensors) {
  std::vector<const TensorToWrite*> out;
  for (const TensorToWrite& tensor : tensors) out.push_back(&tensor);
  const auto rank = [](const TensorToWrite* tensor) {
    const bool whole_lines = bytes_of(*tensor) % kAlignment == 0;
    return std::make_tuple(!whole_lines, whole_lines ? 0 : -static_cast<int>(size_of(tensor->dtype)));
  };
  std::sort(out.begin(), out.end(), [&](const TensorToWrite* a, const TensorToWrite* b) {
    return std::tuple_cat(rank(a), std::tie(a->name)) < std::tuple_cat(rank(b), std::tie(b->name));
  });
  return out;
}

std::string header_of(const std::vector<const TensorToWrite*>& tensors,
                      const std::map<std::string, std::string>& metadata) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  size_t offset = 0;
  std::set<std::string> names = {"__metadata__"};
  for (const TensorToWrite* tensor : tensors) {
    demand(names.insert(tensor->name).second, tensor->name, "name used twice or reserved");
    demand(is_utf8(tensor->name), tensor->name, "name is not UTF-8");
    const size_t end = offset + bytes_of(*tensor);
    header[tensor->name] = {
        {"dtype", name_of(tensor->dtype)}, {"shape", tensor->shape}, {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.resize((text.size() + 8 + kAlignment - 1) / kAlignment * kAlignment - 8, ' ');
  return text;
}

}  // namespace

void write_safetensors(const std::string& path, const std::vector<TensorToWrite>& tensors,
                       const std::map<std::string, std::string>& metadata) {
  const auto ordered = in_file_order(tensors);
  const std::string header = header_of(ordered, metadata);
  char length[8];
  for (size_t i = 0; i < 8; ++i) length[i] = static_cast<char>(header.size() >> (8 * i) & 0xFF);
  AtomicFile file(path);
  file.write(length, sizeof length);
  file.write(header);
  for (const TensorToWrite* tensor : ordered) file.write(tensor->data, bytes_of(*tensor));
  file.commit();
}

}  // namespace core
