// A Hugging Face config.json, read strictly: each key is asked for with its type, and a wrong one is an error that
// names the file and the key. `null` counts as absent, as it does in transformers.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace core {

// One JSON object and where it came from. Without a default a missing key is an error; with one, the default is
// returned.
class JsonObject {
 public:
  // Reads any file that holds one JSON object.
  static JsonObject read(const std::string& path);
  // The same from a text; `where` stands in the messages.
  static JsonObject parse(const std::string& text, const std::string& where);

  bool has(const std::string& key) const;
  std::vector<std::string> keys() const;

  int64_t integer(const std::string& key) const;
  int64_t integer(const std::string& key, int64_t otherwise) const;
  // An integer of at least 1.
  int64_t positive(const std::string& key) const;
  int64_t positive(const std::string& key, int64_t otherwise) const;
  // Integers count as numbers.
  double number(const std::string& key) const;
  double number(const std::string& key, double otherwise) const;
  bool boolean(const std::string& key) const;
  bool boolean(const std::string& key, bool otherwise) const;
  std::string text(const std::string& key) const;
  std::string text(const std::string& key, const std::string& otherwise) const;
  // Lists; a single value counts as a list of one (eos_token_id is written both ways). Absent: empty.
  std::vector<int64_t> integers(const std::string& key) const;
  std::vector<double> numbers(const std::string& key) const;
  std::vector<std::string> texts(const std::string& key) const;
  // A nested object; its messages name the path ("rope_scaling.factor").
  JsonObject object(const std::string& key) const;

  // Refuses any value but this one, by name. An absent key passes: it means Hugging Face's default, which the caller
  // knows.
  void require_value(const std::string& key, const char* value) const;
  void require_value(const std::string& key, bool value) const;
  void require_value(const std::string& key, int value) const;
  void require_value(const std::string& key, double value) const;

  // The file, for messages of the caller.
  const std::string& where() const { return where_; }
  // The key with the path to it, for messages of the caller.
  std::string path_of(const std::string& key) const { return prefix_ + key; }
  // The parsed object itself, for what the typed reads do not cover.
  const nlohmann::json& raw() const { return *json_; }

 private:
  JsonObject(std::shared_ptr<const nlohmann::json> json, std::string where, std::string prefix);
  const nlohmann::json* find(const std::string& key) const;
  const nlohmann::json& get(const std::string& key) const;
  [[noreturn]] void wrong_type(const std::string& key, const nlohmann::json& found, const char* expected) const;
  void require_json(const std::string& key, const nlohmann::json& value) const;

  std::shared_ptr<const nlohmann::json> json_;
  std::string where_;
  std::string prefix_;
};

// config.json of a model directory.
JsonObject read_hf_config(const std::string& directory);

}  // namespace core
