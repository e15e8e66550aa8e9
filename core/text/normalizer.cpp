#include "core/text/normalizer.h"

#include <memory>

#include "core/text/pattern.h"
#include "core/text/utf8.h"

namespace core {

Normalizer::Normalizer(const JsonNode& json) {
  if (!json.is_null()) add(json);
}

void Normalizer::add(const JsonNode& json) {
  const std::string type = json.type();
  if (type == "Sequence") {
    for (const JsonNode& part : json.at("normalizers").items()) add(part);
  } else if (type == "NFC") {
    steps_.emplace_back(nfc);
  } else if (type == "Prepend") {
    steps_.emplace_back([prefix = json.at("prepend").text()](std::string_view text) {
      return text.empty() ? std::string() : prefix + std::string(text);
    });
  } else if (type == "Replace") {
    const auto pattern = std::make_shared<const Pattern>(Pattern::of(json.at("pattern")));
    steps_.emplace_back(
        [pattern, with = json.at("content").text()](std::string_view text) { return pattern->replace(text, with); });
  } else {
    json.refuse_type({"NFC", "Prepend", "Replace", "Sequence"});
  }
}

std::string Normalizer::operator()(std::string_view text) const {
  std::string normalized(text);
  for (const auto& step : steps_) normalized = step(normalized);
  return normalized;
}

}  // namespace core
