// GGUF: the file format of llama.cpp, one file for a model's tensors, its configuration and its tokenizer. Large models
// are split into files `…-00001-of-0000N.gguf`, of which the first holds the keys.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/gguf_header.h"

namespace core {

// A tensor where it lies in the mapped file.
struct GgufTensor {
  std::string name;
  const GgmlType* type = nullptr;
  std::vector<int64_t> shape;  // outermost axis first
  const std::byte* data = nullptr;
  size_t bytes = 0;
  size_t file = 0;  // index into files()

  int64_t row_length() const { return shape.back(); }
  size_t row_bytes() const { return static_cast<size_t>(row_length() / type->block) * type->block_bytes; }
};

// One GGUF file, or all parts of one that is split. Copies are cheap and share the mapping. All errors are UserError
// and name the file; a key of another type than asked for is one.
class Gguf {
 public:
  // Checks the whole structure; reads no tensor. Any part of a split model opens them all.
  static Gguf open(const std::string& file);
  // The file begins with the letters GGUF.
  static bool is_gguf(const std::string& file);

  const std::string& where() const;  // the file that was opened
  std::vector<std::string> files() const;

  bool has(const std::string& key) const;
  // Without a default a missing key is an error. Lists are lists of one where the file has a single value.
  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  double number(const std::string& key) const;  // integers count as numbers
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  const std::vector<int64_t>& integers(const std::string& key) const;
  const std::vector<double>& numbers(const std::string& key) const;  // of floats alone
  const std::vector<std::string_view>& texts(const std::string& key) const;

  const std::vector<GgufTensor>& tensors() const;
  // Null: there is none.
  const GgufTensor* find(const std::string& name) const;

 private:
  Gguf() = default;
  const GgufValue& value(const std::string& key) const;
  [[noreturn]] void wrong_type(const std::string& key, const char* wanted) const;

  struct State;
  std::shared_ptr<const State> state_;
};

}  // namespace core
