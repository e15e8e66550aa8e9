#include "core/text/post_processor.h"

#include "core/io/json_text.h"

namespace core {
namespace {

int32_t id_in(const JsonNode& json) {
  const int64_t id = json.integer();
  require(id >= 0 && id < (1 << 24), "{} {} is out of range. Replace the file.", json.where(), id);
  return static_cast<int32_t>(id);
}

// `single` is the template of one text: special tokens around the sequence A. `special_tokens` holds their ids.
Surroundings of_template(const JsonNode& json) {
  Surroundings around;
  std::vector<int32_t>* side = &around.before;
  for (const JsonNode& piece : json.at("single").items()) {
    if (!piece.at("Sequence").is_null()) {
      require(side == &around.before, "{} holds the text twice. Replace the file.", json.at("single").where());
      side = &around.after;
      continue;
    }
    const std::string name = piece.at("SpecialToken").at("id").text();
    for (const JsonNode& id : json.at("special_tokens").at(name).at("ids").items()) side->push_back(id_in(id));
  }
  require(side == &around.after, "{} does not hold the text. Replace the file.", json.at("single").where());
  return around;
}

// ["<s>", 0]
int32_t id_of_pair(const JsonNode& json) {
  const std::vector<JsonNode> pair = json.items();
  require(pair.size() == 2, "{} is {}, a token and its id are expected. Replace the file.", json.where(),
          printable(json.value().dump()));
  return id_in(pair[1]);
}

}  // namespace

Surroundings read_post_processor(const JsonNode& json) {
  if (json.is_null()) return {};
  const std::string type = json.type();
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return of_template(json);
  if (type == "BertProcessing" || type == "RobertaProcessing")
    return {{id_of_pair(json.at("cls"))}, {id_of_pair(json.at("sep"))}};
  if (type != "Sequence")
    json.refuse_type({"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing", "Sequence"});
  Surroundings around;  // each part surrounds what the one before it made
  for (const JsonNode& part : json.at("processors").items()) {
    const Surroundings more = read_post_processor(part);
    around.before.insert(around.before.begin(), more.before.begin(), more.before.end());
    around.after.insert(around.after.end(), more.after.begin(), more.after.end());
  }
  return around;
}

SpecialTokens begins_as(const JsonNode& json) {
  const std::vector<int32_t> before = read_post_processor(json).before;
  require(before.size() < 2,
          "{} puts {} tokens in front of a text, at most one is implemented. Use a tokenizer with one.", json.where(),
          before.size());
  SpecialTokens special;
  if (before.empty()) return special;
  special.bos_id = before[0];
  special.adds_bos = true;
  return special;
}

}  // namespace core
