// The header of a GGUF file: parsed and checked apart from the mapping, on plain bytes, so that a test or a fuzzer can
// hand it anything. Used by gguf.cpp only.
//
// A file is "GGUF", a version (2 or 3), two counts, the keys with their typed values, the tensors' names, shapes, types
// and places, and, from the next multiple of general.alignment on, the tensors' bytes; all little-endian
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/ggml_types.h"

namespace core {

// A value or a list of values of one type. Of the three lists the one that fits the type is filled; a single value is a
// list of one.
struct GgufValue {
  std::string type;  // "uint32", "string", ... of one value
  bool is_list = false;
  std::vector<int64_t> integers;        // all integer types, and bool as 0 and 1
  std::vector<double> numbers;          // float32, float64
  std::vector<std::string_view> texts;  // in the mapped file
};

struct GgufEntry {
  std::string name;
  const GgmlType* type = nullptr;
  std::vector<int64_t> shape;  // outermost axis first, as everywhere in Refrain; the file has the innermost first
  uint64_t begin = 0;          // bytes from the start of the file
  uint64_t bytes = 0;
};

struct GgufHeader {
  std::map<std::string, GgufValue> values;
  std::vector<GgufEntry> tensors;  // in the order of their bytes
};

// Checks every rule of the format on the bytes of a whole file; `file` names it in the messages (UserError).
// Only what lies before the data is read.
GgufHeader parse_gguf_header(std::string_view bytes, const std::string& file);

}  // namespace core
