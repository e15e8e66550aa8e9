#include "core/text/json_node.h"

#include <algorithm>

#include "core/io/json_text.h"

namespace core {
namespace {

const nlohmann::json kNull;

}  // namespace

JsonNode JsonNode::at(const std::string& key) const {
  if (!value_->is_object()) wrong("an object");
  const auto found = value_->find(key);
  return {found == value_->end() ? kNull : *found, file_, path_.empty() ? key : path_ + "." + key};
}

std::vector<JsonNode> JsonNode::items() const {
  if (!value_->is_array()) wrong("a list");
  std::vector<JsonNode> nodes;
  for (size_t i = 0; i < value_->size(); ++i)
    nodes.emplace_back((*value_)[i], file_, path_ + "[" + std::to_string(i) + "]");
  return nodes;
}

std::string JsonNode::text() const {
  if (!value_->is_string()) wrong("a text");
  return value_->get<std::string>();
}

bool JsonNode::boolean(bool when_null) const {
  if (is_null()) return when_null;
  if (!value_->is_boolean()) wrong("true or false");
  return value_->get<bool>();
}

int64_t JsonNode::integer() const {
  const bool fits =
      value_->is_number_integer() && !(value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{INT64_MAX});
  if (!fits) wrong("an integer");
  return value_->get<int64_t>();
}

void JsonNode::refuse_type(std::initializer_list<std::string_view> implemented) const {
  fail("{} type `{}` is not implemented. Implemented: {}.", where(), printable(type()), fmt::join(implemented, ", "));
}

void JsonNode::require_default(const std::string& key, std::initializer_list<nlohmann::json> values) const {
  const JsonNode node = at(key);
  if (node.is_null() || std::find(values.begin(), values.end(), node.value()) != values.end()) return;
  fail("{} {} is not implemented. Use a tokenizer without it.", node.where(), printable(node.value().dump()));
}

void JsonNode::wrong(std::string_view expected) const {
  fail("{} is {}, {} is expected. Replace the file.", where(), is_null() ? "missing" : printable(value_->dump()),
       expected);
}

}  // namespace core
