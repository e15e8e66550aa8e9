#include "core/text/decoder.h"

#include <fmt/ranges.h>

#include <memory>

#include "core/text/pattern.h"
#include "core/text/utf8.h"

namespace core {
namespace {

using Texts = std::vector<std::string>;

constexpr std::string_view kSpace = "\u2581";

// The byte of a token such as `<0x0A>`.
std::optional<char> byte_of(const std::string& token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned byte = 0;
  for (const char digit : token.substr(3, 2)) {
    if (!std::isxdigit(static_cast<unsigned char>(digit))) return std::nullopt;
    byte = byte * 16 + static_cast<unsigned>(std::isdigit(digit) ? digit - '0' : std::tolower(digit) - 'a' + 10);
  }
  return static_cast<char>(byte);
}

// Runs of byte tokens are their bytes where these are UTF-8, else a U+FFFD for each.
Texts bytes_to_text(Texts tokens) {
  Texts texts;
  std::string run;
  const auto end_run = [&] {
    if (run.empty()) return;
    if (!first_invalid_utf8(run)) {
      texts.push_back(run);
    } else {
      texts.insert(texts.end(), run.size(), "\uFFFD");
    }
    run.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_of(token)) {
      run += *byte;
      continue;
    }
    end_run();
    texts.push_back(std::move(token));
  }
  end_run();
  return texts;
}

Texts fuse(const Texts& tokens) { return {fmt::format("{}", fmt::join(tokens, ""))}; }

// Removes at most `most` times the character from the start, or from the end.
std::string_view without(std::string_view text, std::string_view character, int64_t most, bool at_start) {
  for (int64_t i = 0; i < most && (at_start ? text.starts_with(character) : text.ends_with(character)); ++i)
    at_start ? text.remove_prefix(character.size()) : text.remove_suffix(character.size());
  return text;
}

std::string replaced(std::string_view text, std::string_view what, std::string_view with) {
  std::string result;
  for (size_t found; (found = text.find(what)) != std::string_view::npos; text.remove_prefix(found + what.size()))
    result.append(text.substr(0, found)).append(with);
  return result.append(text);
}

}  // namespace

Decoder::Decoder(const JsonNode& json) : separator_(json.is_null() ? " " : "") {
  if (!json.is_null()) add(json);
}

Decoder Decoder::of_sentencepiece(bool strip) {
  Decoder decoder;
  decoder.steps_.emplace_back([](Texts tokens) {
    for (std::string& token : tokens) token = replaced(token, kSpace, " ");
    return tokens;
  });
  decoder.steps_.emplace_back(bytes_to_text);
  decoder.steps_.emplace_back(fuse);
  if (strip)
    decoder.steps_.emplace_back([](const Texts& t) { return Texts{std::string(without(t[0], " ", 1, true))}; });
  return decoder;
}

void Decoder::add(const JsonNode& json) {
  const std::string type = json.type();
  if (type == "Sequence") {
    for (const JsonNode& part : json.at("decoders").items()) add(part);
  } else if (type == "Replace") {
    const auto pattern = std::make_shared<const Pattern>(Pattern::of(json.at("pattern")));
    steps_.emplace_back([pattern, with = json.at("content").text()](Texts tokens) {
      for (std::string& token : tokens) token = pattern->replace(token, with);
      return tokens;
    });
  } else if (type == "ByteFallback") {
    steps_.emplace_back(bytes_to_text);
  } else if (type == "Fuse") {
    steps_.emplace_back(fuse);
  } else if (type == "Strip") {
    const int64_t start = json.at("start").integer(), stop = json.at("stop").integer();
    steps_.emplace_back([content = json.at("content").text(), start, stop](Texts tokens) {
      for (std::string& token : tokens)
        token = std::string(without(without(token, content, start, true), content, stop, false));
      return tokens;
    });
  } else if (type == "Metaspace") {
    const bool prefix = json.at("prepend_scheme").is_null() || json.at("prepend_scheme").text() != "never";
    steps_.emplace_back([sign = json.at("replacement").text(), prefix](Texts tokens) {
      for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = replaced(tokens[i], sign, i == 0 && prefix ? "" : " ");
      return tokens;
    });
  } else {
    json.refuse_type({"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace", "Sequence"});
  }
}

std::string Decoder::operator()(Texts tokens) const {
  for (const auto& step : steps_) tokens = step(std::move(tokens));
  return fmt::format("{}", fmt::join(tokens, separator_));
}

}  // namespace core
