// The header of a safetensors file: parsed and checked apart from the mapping, on plain bytes, so that a test or a
// fuzzer can hand it anything. Used by safetensors.cpp only.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

namespace core {

// One tensor as the header lists it; its bytes are [begin, end) after the header.
struct HeaderEntry {
  std::string name;
  std::string dtype;  // as written; may be one that we do not read
  std::vector<int64_t> shape;
  uint64_t begin = 0;
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<HeaderEntry> tensors;  // in the order of their bytes
  std::map<std::string, std::string> metadata;
  uint64_t data_start = 0;  // bytes from the start of the file
};

// Checks every rule of the format on the bytes of a whole file; `file` names it in the messages (UserError).
// Only what lies before the data is read.
SafetensorsHeader parse_safetensors_header(std::string_view bytes, const std::string& file);

}  // namespace core
