#include "core/text/load_tokenizer.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/hf_config.h"
#include "core/io/json_text.h"
#include "core/text/byte_level_bpe.h"
#include "core/text/model_texts.h"
#include "core/text/sentencepiece_tokenizer.h"

namespace core {
namespace {

// Llama 2's tokenizer.json states tokenizer.model again in the terms of `tokenizers`: BPE over characters, with bytes
// only as a fallback. What is not JSON is left to its reader to refuse.
bool mirrors_sentencepiece(const std::string& tokenizer_json) {
  const nlohmann::json json = nlohmann::json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  const auto model = json.is_object() ? json.find("model") : json.end();
  return model != json.end() && model->is_object() && model->value("byte_fallback", nlohmann::json()) == true;
}

std::unique_ptr<Tokenizer> read_tokenizer(const ModelTexts& texts) {
  const std::string json = "tokenizer.json", model = "tokenizer.model";
  if (texts.has(json) && !(texts.has(model) && mirrors_sentencepiece(texts.at(json)))) {
    return std::make_unique<ByteLevelBpe>(texts.at(json), texts.name_of(json));
  }
  if (texts.has(model)) return std::make_unique<SentencePieceTokenizer>(texts.at(model), texts.name_of(model));
  fail("{}: there is no tokenizer.json and no tokenizer.model. Copy the model's tokenizer there.", texts.where);
}

// `bos_token` of tokenizer_config.json: a text, or an AddedToken object with a content. Absent and null: none.
std::optional<int32_t> configured_token(const JsonObject& config, const std::string& key, const Tokenizer& tokenizer) {
  if (!config.has(key)) return std::nullopt;
  const bool object = config.raw().at(key).is_object();
  const std::string token = object ? config.object(key).text("content") : config.text(key);
  const std::optional<int32_t> id = tokenizer.token_id(token);
  require(id.has_value(), "{}: {} `{}` is not a token of the tokenizer. Correct one of the two files.", config.where(),
          config.path_of(key), printable(token));
  return id;
}

// `bos_token_id` of config.json: a number, or a list of which the first counts. Absent and null: none.
std::optional<int32_t> configured_id(const JsonObject& config, const std::string& key) {
  const std::vector<int64_t> ids = config.integers(key);
  if (ids.empty()) return std::nullopt;
  require(ids[0] >= 0 && ids[0] < (1 << 24), "{}: {} {} is out of range. Correct the file.", config.where(),
          config.path_of(key), ids[0]);
  return static_cast<int32_t>(ids[0]);
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model_directory) {
  const ModelTexts texts = read_model_texts(model_directory);
  std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(texts);
  SpecialTokens& special = tokenizer->special_;
  if (texts.has("tokenizer_config.json")) {
    const JsonObject config =
        JsonObject::parse(texts.at("tokenizer_config.json"), texts.name_of("tokenizer_config.json"));
    if (const auto id = configured_token(config, "bos_token", *tokenizer)) special.bos_id = id;
    if (const auto id = configured_token(config, "eos_token", *tokenizer)) special.eos_id = id;
    special.adds_bos = config.boolean("add_bos_token", false);
  }
  if (texts.has("config.json")) {
    const JsonObject config = JsonObject::parse(texts.at("config.json"), texts.name_of("config.json"));
    if (!special.bos_id) special.bos_id = configured_id(config, "bos_token_id");
    if (!special.eos_id) special.eos_id = configured_id(config, "eos_token_id");
  }
  return tokenizer;
}

}  // namespace core
