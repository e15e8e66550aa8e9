#include "core/text/load_tokenizer.h"

#include <spdlog/spdlog.h>

#include <array>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "core/io/hf_config.h"
#include "core/io/json_text.h"
#include "core/text/json_tokenizer.h"
#include "core/text/model_texts.h"
#include "core/text/post_processor.h"
#include "core/text/sentencepiece_tokenizer.h"
#include "core/text/tokenizer_settings.h"

namespace core {
namespace {

// Llama 2's tokenizer.json states tokenizer.model again in the terms of `tokenizers`: BPE over characters, with bytes
// only as a fallback. What is not JSON is left to its reader to refuse.
bool mirrors_sentencepiece(const std::string& tokenizer_json) {
  const nlohmann::json json = nlohmann::json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  const auto model = json.is_object() ? json.find("model") : json.end();
  return model != json.end() && model->is_object() && model->value("byte_fallback", nlohmann::json()) == true;
}

// Sets `special` to what tokenizer.json says of BOS, if it is there.
std::unique_ptr<Tokenizer> read_tokenizer(const ModelTexts& texts, std::optional<SpecialTokens>& special) {
  const std::string json = "tokenizer.json", model = "tokenizer.model";
  const bool has_model = texts.has(model), has_json = texts.has(json);
  require(has_model || has_json,
          "{}: there is no tokenizer.json and no tokenizer.model. Copy the model's tokenizer there.", texts.where);
  const TokenizerSettings settings(texts);
  const std::string text = has_json ? texts.at(json) : "";
  if (has_json && !(has_model && mirrors_sentencepiece(text)))
    return std::make_unique<JsonTokenizer>(settings.applied_to(text), texts.name_of(json));
  if (has_json)
    special = begins_as(JsonNode(nlohmann::json::parse(text), texts.name_of(json), "").at("post_processor"));
  return std::make_unique<SentencePieceTokenizer>(texts.at(model), texts.name_of(model),
                                                  settings.for_sentencepiece(text));
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

// `eos_token_id` of config.json: a number or a list. Absent and null: none.
std::vector<int32_t> configured_ids(const JsonObject& config, const std::string& key) {
  std::vector<int32_t> ids;
  for (const int64_t id : config.integers(key)) {
    require(id >= 0 && id < (1 << 24), "{}: {} {} is out of range. Correct the file.", config.where(),
            config.path_of(key), id);
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// The JSON object of a file; none: there is no such file.
std::optional<JsonObject> read_if_there(const ModelTexts& texts, const std::string& file) {
  return texts.has(file) ? std::optional(JsonObject::parse(texts.at(file), texts.name_of(file))) : std::nullopt;
}

// tokenizer_config.json. Where the tokenizer's own file says what a text begins with, it stays so, as in
// transformers 5.
void apply_settings(const JsonObject& config, bool post_processor_counts, const Tokenizer& tokenizer,
                    SpecialTokens& special) {
  const auto disagree = [&](const std::string& key, const std::string& value) {
    spdlog::warn("{}: {} {}, but the post_processor of tokenizer.json begins a text with {}; the latter counts",
                 config.where(), key, value,
                 special.adds_bos ? "`" + printable(tokenizer.decode(std::array{*special.bos_id})) + "`" : "no token");
  };
  const std::optional<int32_t> bos = configured_token(config, "bos_token", tokenizer);
  const bool adds_bos = config.boolean("add_bos_token", post_processor_counts && special.adds_bos);
  if (!post_processor_counts) {
    special.adds_bos = adds_bos;
  } else if (adds_bos != special.adds_bos) {
    disagree("add_bos_token", adds_bos ? "true" : "false");
  } else if (adds_bos && bos && bos != special.bos_id) {
    disagree("bos_token", "`" + printable(tokenizer.decode(std::array{*bos})) + "`");
  }
  if (bos && !(post_processor_counts && special.adds_bos)) special.bos_id = bos;
  if (const auto eos = configured_token(config, "eos_token", tokenizer)) special.eos_ids = {*eos};
}

}  // namespace

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model) { return load_tokenizer(read_model_texts(model)); }

std::unique_ptr<Tokenizer> load_tokenizer(const ModelTexts& texts) {
  std::optional<SpecialTokens> of_mirror;
  std::unique_ptr<Tokenizer> tokenizer = read_tokenizer(texts, of_mirror);
  SpecialTokens& special = tokenizer->special_;
  if (of_mirror) special.adds_bos = of_mirror->adds_bos;
  if (of_mirror && of_mirror->bos_id) special.bos_id = of_mirror->bos_id;
  const bool post_processor_counts = texts.has("tokenizer.json");
  if (const auto config = read_if_there(texts, "tokenizer_config.json"))
    apply_settings(*config, post_processor_counts, *tokenizer, special);
  for (const char* file : {"config.json", "generation_config.json"}) {
    const auto config = read_if_there(texts, file);
    if (!config) continue;
    const std::vector<int32_t> bos = configured_ids(*config, "bos_token_id");
    if (!special.bos_id && !bos.empty()) special.bos_id = bos[0];
    if (const std::vector<int32_t> eos = configured_ids(*config, "eos_token_id"); !eos.empty()) special.eos_ids = eos;
  }
  return tokenizer;
}

}  // namespace core
