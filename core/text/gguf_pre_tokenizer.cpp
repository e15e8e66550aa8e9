#include "core/text/gguf_pre_tokenizer.h"

#include "core/text/utf8.h"

namespace core {

using nlohmann::json;

json byte_level(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

namespace {

json split(const std::string& regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json digits() { return {{"type", "Digits"}, {"individual_digits", true}}; }
// The pattern of GPT-4's tokenizer as Llama 3 and Qwen have it: numbers of so many digits are one word.
std::string words(const std::string& digits_of_a_number) {
  return R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})" + digits_of_a_number +
         R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
}

struct Range {
  char32_t first, last;
};

std::string character_class(const std::vector<Range>& ranges) {
  std::string text = "[";
  for (const Range& range : ranges) {
    append_utf8(text, range.first);
    if (range.last == range.first) continue;
    if (range.last > range.first + 1) text += '-';
    append_utf8(text, range.last);
  }
  return text + "]";
}

// Letters with case, as far as DeepSeek's tokenizer knows them; iota stands there twice.
const std::vector<Range>& cased_letters() {
  static const std::vector<Range> ranges{
      {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
      {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
      {0x376, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},
      {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
      {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},
      {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},
      {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},
      {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
      {0x3B9, 0x3B9},     {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},
      {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},
      {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},
      {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
      {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
      {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},
      {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},
      {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
      {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
  return ranges;
}

json deepseek_words() {
  const std::string marks =
      character_class({{'!', '/'}, {':', '~'}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}, {0x2018, 0x201F}, {0x3000, 0x3002}});
  const std::string east_asian = character_class({{0x4E00, 0x9FA5}, {0x0800, 0x4E00}, {0xAC00, 0xD7FF}});
  return json::array({split("[\\r\\n]"), split("\\s?" + character_class(cased_letters()) + "+"),
                      split("\\s?" + marks + "+"), split("\\s+$"), split(east_asian + "+"), digits(),
                      byte_level(false)});
}

// What a stage does to a text, without what only matters to offsets, and with the defaults that files leave out.
json essence(const json& stage) {
  json kept{{"type", stage.value("type", "")}};
  if (kept["type"] == "Split") {
    kept["pattern"] =
        nfc(stage.value("pattern", json()).dump());  // DeepSeek's is found in both spellings of its letters
    kept["behavior"] = stage.value("behavior", "");
    kept["invert"] = stage.value("invert", false);
  } else if (kept["type"] == "Digits") {
    kept["individual_digits"] = stage.value("individual_digits", false);
  } else if (kept["type"] == "ByteLevel") {
    kept["add_prefix_space"] = stage.value("add_prefix_space", true);
    kept["use_regex"] = stage.value("use_regex", true);
  }
  return kept;
}

json essences(const json& stages) {
  json all = json::array();
  for (const json& stage : stages) all.push_back(essence(stage));
  return all;
}

const std::vector<std::pair<std::string, GgufPreTokenizer>>& known_kinds() {
  static const std::vector<std::pair<std::string, GgufPreTokenizer>> kinds{
      {"gpt-2", {json::array({byte_level(true)})}},
      {"smollm", {json::array({digits(), byte_level(true)})}},
      {"qwen2", {json::array({split(words("")), byte_level(false)}), /*nfc=*/true}},
      {"llama-bpe", {json::array({split(words("{1,3}")), byte_level(false)}), /*nfc=*/false, /*ignore_merges=*/true}},
      {"deepseek-llm", {deepseek_words()}}};
  return kinds;
}

}  // namespace

std::vector<std::string> gguf_pre_tokenizers() {
  std::vector<std::string> names;
  for (const auto& [name, kind] : known_kinds()) names.push_back(name);
  return names;
}

std::optional<GgufPreTokenizer> gguf_pre_tokenizer(const std::string& name) {
  for (const auto& [known, kind] : known_kinds()) {
    if (name == known) return kind;
  }
  return std::nullopt;
}

std::optional<std::string> gguf_pre_tokenizer_of(const json& tokenizer) {
  const json pre = tokenizer.value("pre_tokenizer", json()), normalizer = tokenizer.value("normalizer", json());
  if (!pre.is_object()) return std::nullopt;
  const json stages =
      pre.value("type", "") == "Sequence" ? pre.value("pretokenizers", json::array()) : json::array({pre});
  const bool ignores_merges = tokenizer.value("model", json::object()).value("ignore_merges", false);
  for (const auto& [name, known] : known_kinds()) {
    const bool normalizes = known.nfc ? normalizer.is_object() && normalizer.value("type", "") == "NFC"
                                      : normalizer.is_null() || (normalizer.value("type", "") == "Sequence" &&
                                                                 normalizer.value("normalizers", json()).empty());
    if (normalizes && ignores_merges == known.ignore_merges && essences(stages) == essences(known.stages)) return name;
  }
  return std::nullopt;
}

}  // namespace core
