#include "core/text/pre_tokenizer.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <memory>

#include "core/io/json_text.h"

namespace core {
namespace {

// The pattern of GPT-2 (Radford et al. 2019), which ByteLevel applies by itself under use_regex.
constexpr std::string_view kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr std::array kBehaviors{"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};

// Joins matches with their neighbours. Neighbours are parts of one text, so that joining is a longer view.
std::vector<std::string_view> joined(const std::vector<Pattern::Piece>& pieces, std::string_view behavior) {
  std::vector<std::string_view> words;
  bool after_match = false;
  const auto append = [&](std::string_view text, bool to_last) {
    if (to_last && !words.empty()) {
      words.back() = {words.back().data(), words.back().size() + text.size()};
    } else {
      words.push_back(text);
    }
  };
  for (const auto& [text, is_match] : pieces) {
    if (behavior == "Removed" && is_match) continue;
    append(text, (behavior == "MergedWithPrevious" && is_match && !after_match) ||
                     (behavior == "MergedWithNext" && !is_match && after_match) ||
                     (behavior == "Contiguous" && is_match == after_match));
    after_match = is_match;
  }
  return words;
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonNode& json) {
  if (!json.is_null()) add(json);
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
    cut(Pattern::regex(individual ? R"(\p{N})" : R"(\p{N}+)", json.where()), "Isolated");
  } else if (type == "Metaspace") {
    add_metaspace(json);
  } else if (type == "ByteLevel") {
    add_byte_level(json);
  } else {
    json.refuse_type({"Split", "Digits", "Metaspace", "ByteLevel", "Sequence"});
  }
}

void PreTokenizer::cut(Pattern pattern, const std::string& behavior, bool invert) {
  const auto shared = std::make_shared<const Pattern>(std::move(pattern));
  stages_.emplace_back([shared, behavior, invert](const Pieces& pieces, Copies&) {
    Pieces words;
    words.reserve(pieces.size());
    for (const Piece& piece : pieces) {
      std::vector<Pattern::Piece> found = shared->split(piece.text);
      for (Pattern::Piece& part : found) part.is_match ^= invert;
      for (const std::string_view word : joined(found, behavior))
        words.push_back({word, piece.begins && word.data() == piece.text.data()});
    }
    return words;
  });
}

void PreTokenizer::add_split(const JsonNode& json) {
  const std::string behavior = json.at("behavior").text();
  if (std::ranges::find(kBehaviors, behavior) == kBehaviors.end())
    fail("{} `{}` is not known. Known: {}.", json.at("behavior").where(), printable(behavior),
         fmt::join(kBehaviors, ", "));
  cut(Pattern::of(json.at("pattern")), behavior, json.at("invert").boolean(false));
}

// Spaces become the replacement; one more is put in front of every piece (always), of the one that begins the text
// (first) or of none (never), unless it stands there already.
void PreTokenizer::add_metaspace(const JsonNode& json) {
  const std::string sign = json.at("replacement").text();
  const bool old_spelling = json.at("prepend_scheme").is_null();
  const std::string scheme = !old_spelling                               ? json.at("prepend_scheme").text()
                             : json.at("add_prefix_space").boolean(true) ? "always"
                                                                         : "never";
  require(!sign.empty(), "{} is empty. Replace the file.", json.at("replacement").where());
  require(scheme == "always" || scheme == "first" || scheme == "never",
          "{} `{}` is not known. Known: always, first, never.", json.at("prepend_scheme").where(), printable(scheme));
  const auto space = std::make_shared<const Pattern>(Pattern::literal(" ", json.where()));
  stages_.emplace_back([space, sign, scheme](const Pieces& pieces, Copies& copies) {
    Pieces words;
    for (const Piece& piece : pieces) {
      std::string text = space->replace(piece.text, sign);
      if ((scheme == "always" || (scheme == "first" && piece.begins)) && !text.starts_with(sign)) text.insert(0, sign);
      words.push_back({copies.emplace_back(std::move(text)), piece.begins});
    }
    return words;
  });
  if (json.at("split").boolean(true)) cut(Pattern::literal(sign, json.where()), "MergedWithNext");
}

// `trim_offsets` concerns character offsets, which we do not produce.
void PreTokenizer::add_byte_level(const JsonNode& json) {
  if (json.at("add_prefix_space").boolean(true)) {
    stages_.emplace_back([](Pieces pieces, Copies& copies) {
      for (Piece& piece : pieces)
        if (!piece.text.starts_with(' ')) piece.text = copies.emplace_back(" " + std::string(piece.text));
      return pieces;
    });
  }
  if (json.at("use_regex").boolean(true)) cut(Pattern::regex(kGpt2, json.where()), "Isolated");
  byte_level_ = true;
}

std::vector<std::string_view> PreTokenizer::split(std::string_view text, bool begins,
                                                  std::deque<std::string>& copies) const {
  Pieces pieces;
  if (!text.empty()) pieces.push_back({text, begins});
  for (const auto& stage : stages_) pieces = stage(pieces, copies);
  std::vector<std::string_view> words;
  words.reserve(pieces.size());
  for (const Piece& piece : pieces) words.push_back(piece.text);
  return words;
}

}  // namespace core
