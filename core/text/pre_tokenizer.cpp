#include "core/text/pre_tokenizer.h"

namespace core {
namespace {

// The pattern of GPT-2 (Radford et al. 2019), which ByteLevel applies by itself under use_regex.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

PreTokenizer::PreTokenizer(const JsonNode& json) {
  require(!json.is_null(), "{} is missing. A byte-level tokenizer needs ByteLevel.", json.where());
  add(json);
  require(byte_level_, "{} has no ByteLevel. Only byte-level BPE is implemented for tokenizer.json.", json.where());
}

void PreTokenizer::add(const JsonNode& json) {
  const std::string type = json.type();
  require(!byte_level_, "{} comes after ByteLevel, which must be the last. Use a tokenizer of that form.",
          json.where());
  if (type == "Sequence") {
    for (const JsonNode& part : json.at("pretokenizers").items()) add(part);
  } else if (type == "Split") {
    add_split(json);
  } else if (type == "Digits") {
    const bool individual = json.at("individual_digits").boolean(false);
    stages_.push_back({false, Pattern::regex(individual ? R"(\p{N})" : R"(\p{N}+)", json.where())});
  } else if (type == "ByteLevel") {
    add_byte_level(json);
  } else {
    json.refuse_type({"Split", "Digits", "ByteLevel", "Sequence"});
  }
}

void PreTokenizer::add_split(const JsonNode& json) {
  json.require_default("behavior", {"Isolated"});
  json.require_default("invert", {false});
  const JsonNode regex = json.at("pattern").at("Regex");
  stages_.push_back({false, regex.is_null() ? Pattern::literal(json.at("pattern").at("String").text(), json.where())
                                            : Pattern::regex(regex.text(), json.where())});
}

// `trim_offsets` concerns character offsets, which we do not produce.
void PreTokenizer::add_byte_level(const JsonNode& json) {
  Stage stage;
  stage.prefix_space = json.at("add_prefix_space").boolean(true);
  if (json.at("use_regex").boolean(true)) stage.pattern = Pattern::regex(kGpt2, json.where());
  stages_.push_back(std::move(stage));
  byte_level_ = true;
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text, std::deque<std::string>& copies) const {
  std::vector<std::string_view> pieces;
  if (!text.empty()) pieces.push_back(text);
  for (const Stage& stage : stages_) {
    if (stage.prefix_space)
      for (std::string_view& piece : pieces)
        if (!piece.starts_with(' ')) piece = copies.emplace_back(" " + std::string(piece));
    if (!stage.pattern) continue;
    std::vector<std::string_view> cut;
    cut.reserve(pieces.size());
    for (const std::string_view piece : pieces) stage.pattern->split(piece, cut);
    pieces = std::move(cut);
  }
  return pieces;
}

}  // namespace core
