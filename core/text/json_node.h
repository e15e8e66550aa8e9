// A place in tokenizer.json: the value with the file and the path to it, so that every wrong or unimplemented part is
// named in one line.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/error.h"

namespace core {

class JsonNode {
 public:
  JsonNode(const nlohmann::json& value, std::string file, std::string path)
      : value_(&value), file_(std::move(file)), path_(std::move(path)) {}

  const nlohmann::json& value() const { return *value_; }
  bool is_null() const { return value_->is_null(); }
  const std::string& file() const { return file_; }
  const std::string& path() const { return path_; }
  // "tokenizer.json: pre_tokenizer.pretokenizers[0]"; the opening of messages.
  std::string where() const { return path_.empty() ? file_ : file_ + ": " + path_; }

  // A member; null when absent.
  JsonNode at(const std::string& key) const;
  // The members of a list.
  std::vector<JsonNode> items() const;

  std::string text() const;
  bool boolean(bool when_null) const;
  int64_t integer() const;

  // The member "type".
  std::string type() const { return at("type").text(); }

  // Throws: "<file>: <path> type `X` is not implemented. Implemented: A, B."
  [[noreturn]] void refuse_type(std::initializer_list<std::string_view> implemented) const;
  // Throws "<file>: <path>.<key> <value> is not implemented. Use a tokenizer without it." unless the member is null or
  // one of the values.
  void require_default(const std::string& key, std::initializer_list<nlohmann::json> values = {}) const;

 private:
  [[noreturn]] void wrong(std::string_view expected) const;

  const nlohmann::json* value_;
  std::string file_;
  std::string path_;
};

}  // namespace core
