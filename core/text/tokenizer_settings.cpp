#include "core/text/tokenizer_settings.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/io/hf_config.h"
#include "core/io/json_text.h"

namespace core {
namespace {

using nlohmann::json;

json object_if_there(const ModelTexts& texts, const std::string& file) {
  return texts.has(file) ? JsonObject::parse(texts.at(file), texts.name_of(file)).raw() : json::object();
}

int64_t id_of_key(const JsonNode& tokens, const std::string& key) {
  int64_t id = -1;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  require(error == std::errc() && end == key.data() + key.size(),
          "{} has the key `{}`, a token id is expected. Replace the file.", tokens.where(), printable(key));
  return id;
}

// A token is written as a text or as an object with a content; a list of tokens also as an object of texts.
void collect_tokens(const json& value, std::vector<std::string>& tokens) {
  if (value.is_string()) tokens.push_back(value);
  if (value.is_object() && value.contains("content")) return collect_tokens(value["content"], tokens);
  if (value.is_array() || value.is_object())
    for (const json& item : value) collect_tokens(item, tokens);
}

json metaspace(const std::string& scheme) {
  return {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", scheme}, {"split", false}};
}

json decoder_of_llama(bool strip) {
  json steps = {{{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}},
                {{"type", "ByteFallback"}},
                {{"type", "Fuse"}}};
  if (strip) steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", steps}};
}

// Gives a token of tokenizer.json these flags, or adds it.
void put(const AddedToken& token, json& listed, const json& vocabulary) {
  const auto same = std::ranges::find_if(
      listed, [&](const json& entry) { return entry.is_object() && entry.value("content", json()) == token.content; });
  const bool known = vocabulary.is_object() && vocabulary.contains(token.content);
  const json id = known ? vocabulary[token.content] : json(token.id);
  json& entry = same != listed.end() ? *same : listed.emplace_back(json{{"id", id}, {"content", token.content}});
  entry["lstrip"] = token.lstrip;
  entry["rstrip"] = token.rstrip;
  entry["single_word"] = token.single_word;
  entry["normalized"] = token.normalized;
}

}  // namespace

TokenizerSettings::TokenizerSettings(const ModelTexts& texts)
    : tokenizer_config_(texts.name_of("tokenizer_config.json")),
      added_tokens_(texts.name_of("added_tokens.json")),
      config_(object_if_there(texts, "tokenizer_config.json")),
      added_(object_if_there(texts, "added_tokens.json")),
      special_map_(object_if_there(texts, "special_tokens_map.json")) {}

bool TokenizerSettings::is_llama_tokenizer() const {
  const json name = config_.value("tokenizer_class", json());
  return name == "LlamaTokenizer" || name == "LlamaTokenizerFast";
}

std::string TokenizerSettings::prepend_scheme() const {
  if (config_.value("add_prefix_space", json()) == false) return "never";
  return config_.value("legacy", json()) == true ? "always" : "first";
}

std::vector<AddedToken> TokenizerSettings::added_tokens() const {
  std::vector<AddedToken> tokens;
  if (const auto decoder = config_.find("added_tokens_decoder"); decoder != config_.end() && !decoder->is_null()) {
    const JsonNode list(*decoder, tokenizer_config_, "added_tokens_decoder");
    require(decoder->is_object(), "{} is not an object of ids and tokens. Replace the file.", list.where());
    for (const auto& [key, token] : decoder->items())
      tokens.push_back(read_added_token(list.at(key), id_of_key(list, key)));
    return tokens;
  }
  const std::vector<std::string> special = special_tokens();
  const JsonNode list(added_, added_tokens_, "");
  for (const auto& [content, value] : added_.items()) {
    const bool is_special = std::ranges::find(special, content) != special.end();
    const json token{{"content", content}, {"special", is_special}};
    tokens.push_back(read_added_token(JsonNode(token, list.file(), content), list.at(content).integer()));
  }
  return tokens;
}

// Named in tokenizer_config.json (`bos_token`, `additional_special_tokens`); of special_tokens_map.json only where the
// former has no added_tokens_decoder.
std::vector<std::string> TokenizerSettings::special_tokens() const {
  std::vector<std::string> tokens;
  const auto collect = [&](const json& file) {
    for (const auto& [key, value] : file.items())
      if (key.ends_with("_token") || key.ends_with("_special_tokens")) collect_tokens(value, tokens);
  };
  collect(config_);
  if (!config_.contains("added_tokens_decoder")) collect(special_map_);
  return tokens;
}

std::string TokenizerSettings::applied_to(const std::string& tokenizer_json) const {
  const std::vector<AddedToken> added = added_tokens();
  const bool as_llama = is_llama_tokenizer() && tokenizer_json.find("\"ByteLevel\"") == std::string::npos;
  if (added.empty() && !as_llama) return tokenizer_json;
  json file = json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  const bool whole = file.is_object() && file.value("model", json()).is_object();
  if (!whole) return tokenizer_json;  // its reader refuses it
  const json listed = file.value("added_tokens", json::array());
  if (json& tokens = file["added_tokens"] = listed; tokens.is_array())
    for (const AddedToken& token : added) put(token, tokens, file["model"]["vocab"]);
  if (file["added_tokens"] == listed && !as_llama) return tokenizer_json;
  if (as_llama) {
    file["normalizer"] = nullptr;
    file["pre_tokenizer"] = metaspace(prepend_scheme());
    file["decoder"] = decoder_of_llama(prepend_scheme() != "never");
    file["model"].update({{"fuse_unk", true}, {"byte_fallback", true}});
  }
  return file.dump();
}

SentencePieceOptions TokenizerSettings::for_sentencepiece(const std::string& tokenizer_json) const {
  using Prefix = SentencePieceOptions::Prefix;
  SentencePieceOptions options;
  options.added = added_tokens();
  const json file = json::parse(tokenizer_json, nullptr, /*allow_exceptions=*/false);
  std::string scheme;
  if (is_llama_tokenizer()) {
    scheme = prepend_scheme();
  } else if (file.is_object() && file.contains("pre_tokenizer") && file["pre_tokenizer"].is_object()) {
    scheme = file["pre_tokenizer"].value("prepend_scheme", "");
  } else if (!file.is_object() && config_.value("legacy", json()) == false) {
    scheme = "first";
  }
  if (scheme == "never") options.prefix = Prefix::never;
  if (options.added.empty()) return options;
  if (scheme == "always") options.prefix = Prefix::always;
  if (scheme == "first") options.prefix = Prefix::first;
  return options;
}

}  // namespace core
