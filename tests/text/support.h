// What the tests of core/text share: golden files, the test data, a small tokenizer.json that can be broken on purpose.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/io/files.h"
#include "core/text/byte_alphabet.h"
#include "core/text/json_tokenizer.h"
#include "tests/io/support.h"

namespace core {

inline std::string golden(const std::string& name) {
  return std::string(REFRAIN_SOURCE_DIR) + "/tests/golden/text/" + name;
}

inline nlohmann::json golden_json(const std::string& name) { return nlohmann::json::parse(read_file(golden(name))); }

// The folder of the test data, "" if REFRAIN_DATA is not set.
inline std::string test_data() {
  const char* data = std::getenv("REFRAIN_DATA");
  return data ? data : "";
}

// Sets an environment variable for one test; null removes it.
class Environment {
 public:
  Environment(const char* name, const char* value) : name_(name) {
    if (const char* old = std::getenv(name)) old_ = old;
    value ? ::setenv(name, value, 1) : ::unsetenv(name);
  }
  ~Environment() { old_ ? ::setenv(name_, old_->c_str(), 1) : ::unsetenv(name_); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

 private:
  const char* name_;
  std::optional<std::string> old_;
};

// A correct tokenizer.json: the 256 bytes as ids 0 … 255, three merges (`he` 256, `ll` 257, `hell` 258), `<end>` 259.
inline nlohmann::json small_tokenizer() {
  nlohmann::json vocabulary;
  for (int byte = 0; byte < 256; ++byte) vocabulary[byte_symbol(static_cast<uint8_t>(byte))] = byte;
  vocabulary["he"] = 256;
  vocabulary["ll"] = 257;
  vocabulary["hell"] = 258;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {{{"id", 259}, {"content", "<end>"}, {"special", true}, {"normalized", false}}}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", {"h e", "l l", "he ll"}}}}};
}

// A post-processor that puts special tokens around a text.
inline nlohmann::json template_of(const std::map<std::string, int>& ids, const std::vector<std::string>& before,
                                  const std::vector<std::string>& after = {}) {
  nlohmann::json single = nlohmann::json::array(), special = nlohmann::json::object();
  const auto add = [&](const std::vector<std::string>& tokens) {
    for (const std::string& token : tokens) single.push_back({{"SpecialToken", {{"id", token}, {"type_id", 0}}}});
  };
  add(before);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  add(after);
  for (const auto& [token, id] : ids) special[token] = {{"id", token}, {"ids", {id}}, {"tokens", {token}}};
  return {{"type", "TemplateProcessing"}, {"single", single}, {"pair", single}, {"special_tokens", special}};
}

// A tokenizer.json of tests/golden/text/characters.json: `base` with what a case changes.
inline nlohmann::json characters_tokenizer(nlohmann::json base,
                                           const nlohmann::json& change = nlohmann::json::object()) {
  nlohmann::json& vocabulary = base["model"]["vocab"];
  if (change.contains("without"))
    for (const std::string token : change["without"]) {
      vocabulary["-" + token] = vocabulary[token];
      vocabulary.erase(token);
    }
  if (change.contains("model")) base["model"].update(change["model"]);
  if (change.contains("parts")) base.update(change["parts"]);
  return base;
}

using Ids = std::vector<int32_t>;

}  // namespace core
