#include "core/io/hf_config.h"

#include <filesystem>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/files.h"
#include "core/io/json_text.h"

namespace core {
namespace {

using nlohmann::json;

// What a value is, in the words of the messages: a number or a text as it is written, the rest by its kind.
std::string described(const json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  return printable(value.dump());
}

bool is_int64(const json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  return value.is_number_integer();
}

}  // namespace

JsonObject::JsonObject(std::shared_ptr<const json> object, std::string where, std::string prefix)
    : json_(std::move(object)), where_(std::move(where)), prefix_(std::move(prefix)) {}

JsonObject JsonObject::parse(const std::string& text, const std::string& where) {
  auto parsed = std::make_shared<json>(parse_json(text, {where, "the text", "Repair the file or download it again."}));
  require(parsed->is_object(), "{}: the text is {}, not an object. Repair the file or download it again.", where,
          described(*parsed));
  return JsonObject(std::move(parsed), where, "");
}

JsonObject JsonObject::read(const std::string& path) { return parse(read_file(path), path); }

const json* JsonObject::find(const std::string& key) const {
  const auto found = json_->find(key);
  return found == json_->end() || found->is_null() ? nullptr : &*found;
}

const json& JsonObject::get(const std::string& key) const {
  const json* value = find(key);
  require(value != nullptr, "{}: {} is missing. Is this the configuration that belongs to the model?", where_,
          path_of(key));
  return *value;
}

void JsonObject::wrong_type(const std::string& key, const json& found, const char* expected) const {
  fail("{}: {} is {}. It must be {}.", where_, path_of(key), described(found), expected);
}

bool JsonObject::has(const std::string& key) const { return find(key) != nullptr; }

std::vector<std::string> JsonObject::keys() const {
  std::vector<std::string> out;
  for (const auto& [key, value] : json_->items()) {
    if (!value.is_null()) out.push_back(key);
  }
  return out;
}

int64_t JsonObject::integer(const std::string& key) const {
  const json& value = get(key);
  if (!is_int64(value)) wrong_type(key, value, "a whole number");
  return value.get<int64_t>();
}

int64_t JsonObject::positive(const std::string& key) const {
  const int64_t value = integer(key);
  require(value >= 1, "{}: {} is {}. It must be at least 1.", where_, path_of(key), value);
  return value;
}

double JsonObject::number(const std::string& key) const {
  const json& value = get(key);
  if (!value.is_number()) wrong_type(key, value, "a number");
  return value.get<double>();
}

bool JsonObject::boolean(const std::string& key) const {
  const json& value = get(key);
  if (!value.is_boolean()) wrong_type(key, value, "true or false");
  return value.get<bool>();
}

std::string JsonObject::text(const std::string& key) const {
  const json& value = get(key);
  if (!value.is_string()) wrong_type(key, value, "a text");
  return value.get<std::string>();
}

int64_t JsonObject::integer(const std::string& key, int64_t otherwise) const {
  return has(key) ? integer(key) : otherwise;
}
int64_t JsonObject::positive(const std::string& key, int64_t otherwise) const {
  return has(key) ? positive(key) : otherwise;
}
double JsonObject::number(const std::string& key, double otherwise) const { return has(key) ? number(key) : otherwise; }
bool JsonObject::boolean(const std::string& key, bool otherwise) const { return has(key) ? boolean(key) : otherwise; }
std::string JsonObject::text(const std::string& key, const std::string& otherwise) const {
  return has(key) ? text(key) : otherwise;
}

namespace {

// A list's values, or a single value as a list of one; `fits` tells whether a value has the wanted type.
template <typename T, typename Fits>
bool read_list(const json* value, Fits fits, std::vector<T>& out) {
  if (value == nullptr) return true;
  const json list = value->is_array() ? *value : json::array({*value});
  for (const json& item : list) {
    if (!fits(item)) return false;
    out.push_back(item.get<T>());
  }
  return true;
}

}  // namespace

std::vector<int64_t> JsonObject::integers(const std::string& key) const {
  std::vector<int64_t> out;
  if (!read_list(find(key), is_int64, out)) wrong_type(key, get(key), "a list of whole numbers");
  return out;
}

std::vector<double> JsonObject::numbers(const std::string& key) const {
  std::vector<double> out;
  const auto fits = [](const json& item) { return item.is_number(); };
  if (!read_list(find(key), fits, out)) wrong_type(key, get(key), "a list of numbers");
  return out;
}

std::vector<std::string> JsonObject::texts(const std::string& key) const {
  std::vector<std::string> out;
  const auto fits = [](const json& item) { return item.is_string(); };
  if (!read_list(find(key), fits, out)) wrong_type(key, get(key), "a list of texts");
  return out;
}

JsonObject JsonObject::object(const std::string& key) const {
  const json& value = get(key);
  if (!value.is_object()) wrong_type(key, value, "an object");
  return JsonObject(std::shared_ptr<const json>(json_, &value), where_, path_of(key) + ".");
}

void JsonObject::require_json(const std::string& key, const json& value) const {
  const json* found = find(key);
  require(found == nullptr || *found == value, "{}: {} is {}. Only {} is implemented.", where_, path_of(key),
          found == nullptr ? "absent" : described(*found), value.dump());
}

void JsonObject::require_value(const std::string& key, const char* value) const { require_json(key, json(value)); }
void JsonObject::require_value(const std::string& key, bool value) const { require_json(key, json(value)); }
void JsonObject::require_value(const std::string& key, int value) const { require_json(key, json(value)); }
void JsonObject::require_value(const std::string& key, double value) const { require_json(key, json(value)); }

JsonObject read_hf_config(const std::string& directory) {
  const std::string path = (std::filesystem::path(directory) / "config.json").string();
  std::error_code ignored;
  require(std::filesystem::exists(directory, ignored), "{}: no such directory. Check model.path.", directory);
  require(std::filesystem::exists(path, ignored), "{}: no config.json here. Is it a Hugging Face model directory?",
          directory);
  return JsonObject::read(path);
}

}  // namespace core
