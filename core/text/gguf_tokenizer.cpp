#include "core/text/gguf_tokenizer.h"

#include <algorithm>
#include <bit>
#include <nlohmann/json.hpp>
#include <vector>

#include "core/error.h"
#include "core/io/json_text.h"
#include "core/text/utf8.h"

namespace core {
namespace {

using nlohmann::json;

// tokenizer.ggml.token_type, the kinds of sentencepiece.
enum Kind : int64_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

constexpr const char* kConvertAgain = "Convert the model again with a recent llama.cpp.";

// Tokens with their kinds, checked.
struct GgufVocabulary {
  explicit GgufVocabulary(const Gguf& file)
      : tokens(file.texts("tokenizer.ggml.tokens")),
        kinds(file.has("tokenizer.ggml.token_type") ? file.integers("tokenizer.ggml.token_type")
                                                    : std::vector<int64_t>(tokens.size(), normal)) {
    require(!tokens.empty() && kinds.size() == tokens.size(),
            "{}: tokenizer.ggml.tokens has {} tokens, tokenizer.ggml.token_type {} kinds. {}", file.where(),
            tokens.size(), kinds.size(), kConvertAgain);
    for (size_t id = 0; id < tokens.size(); ++id) {
      require(is_utf8(tokens[id]), "{}: token {} of tokenizer.ggml.tokens is not UTF-8. {}", file.where(), id,
              kConvertAgain);
    }
  }
  // Found in a text before it is cut into words.
  bool is_added(size_t id) const { return kinds[id] == control || kinds[id] == user_defined; }

  const std::vector<std::string_view>& tokens;
  std::vector<int64_t> kinds;
};

json added_token(const GgufVocabulary& vocabulary, size_t id) {
  return {{"id", id},
          {"content", vocabulary.tokens[id]},
          {"single_word", false},
          {"lstrip", false},
          {"rstrip", false},
          {"normalized", false},
          {"special", vocabulary.kinds[id] == control}};
}

// ---- gpt2 ----

json split(const std::string& regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json digits() { return {{"type", "Digits"}, {"individual_digits", true}}; }
json bytes(bool use_regex) {
  return {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}

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
    text += '-';
    append_utf8(text, range.last);
  }
  return text + "]";
}

// Letters with case, as far as DeepSeek's tokenizer knows them.
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
      {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},
      {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},
      {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
      {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},   {0x2145, 0x2149},
      {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},
      {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},
      {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},
      {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB}, {0x10C80, 0x10CB2},
      {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
  return ranges;
}

json deepseek_words() {
  const std::string marks =
      character_class({{'!', '/'}, {':', '~'}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}, {0x2018, 0x201F}, {0x3000, 0x3002}});
  const std::string east_asian = character_class({{0x4E00, 0x9FA5}, {0x0800, 0x4E00}, {0xAC00, 0xD7FF}});
  return json::array({split("[\\r\\n]"), split("\\s?" + character_class(cased_letters()) + "+"),
                      split("\\s?" + marks + "+"), split("\\s+$"), split(east_asian + "+"), digits(), bytes(false)});
}

// How a text is cut into words, by the name that llama.cpp has for it.
struct PreTokenizerKind {
  json stages;
  bool nfc = false;
  bool ignore_merges = false;
};

std::string pre_tokenizer_name(const Gguf& file) { return file.text("tokenizer.ggml.pre", "default"); }

bool is_llama3(const std::string& name) { return name == "llama-bpe" || name == "llama3" || name == "llama-v3"; }

PreTokenizerKind pre_tokenizer_kind(const Gguf& file) {
  const std::string name = pre_tokenizer_name(file);
  if (name == "gpt-2") return {json::array({bytes(true)})};
  if (name == "smollm") return {json::array({digits(), bytes(true)})};
  if (name == "qwen2") return {json::array({split(words("")), bytes(false)}), /*nfc=*/true};
  if (is_llama3(name))
    return {json::array({split(words("{1,3}")), bytes(false)}), /*nfc=*/false, /*ignore_merges=*/true};
  if (name == "deepseek-llm") return {deepseek_words()};
  fail(
      "{}: tokenizer.ggml.pre `{}` is not implemented. Use a model with one of: gpt-2, smollm, qwen2, llama-bpe, "
      "deepseek-llm.",
      file.where(), printable(name));
}

// "a b", cut at the first space behind the first character; a merge of spaces has none before.
json merge_of(const Gguf& file, std::string_view merge, size_t index) {
  const size_t space = merge.find(' ', 1);
  require(is_utf8(merge) && space != std::string_view::npos && space + 1 < merge.size(),
          "{}: merge {} of tokenizer.ggml.merges, `{}`, is not a pair of tokens. {}", file.where(), index,
          printable(merge), kConvertAgain);
  return {merge.substr(0, space), merge.substr(space + 1)};
}

// The token of a role ("bos"); -1: the file names none.
int64_t special_id(const Gguf& file, const GgufVocabulary& vocabulary, const std::string& role) {
  const std::string key = "tokenizer.ggml." + role + "_token_id";
  if (!file.has(key)) return -1;
  const int64_t id = file.integer(key);
  require(id >= 0 && id < std::ssize(vocabulary.tokens), "{}: {} is {}, but there are {} tokens. {}", file.where(), key,
          id, vocabulary.tokens.size(), kConvertAgain);
  return id;
}

// Whether BOS begins every text. Files of Llama 3 need not say so.
bool adds_bos(const Gguf& file, bool is_sentencepiece) {
  return file.boolean("tokenizer.ggml.add_bos_token", is_sentencepiece || is_llama3(pre_tokenizer_name(file)));
}

// What begins every text: BOS, where the file says so.
json post_processor(const Gguf& file, const GgufVocabulary& vocabulary) {
  const int64_t bos = special_id(file, vocabulary, "bos");
  if (bos < 0 || !adds_bos(file, /*is_sentencepiece=*/false)) return nullptr;
  const std::string token(vocabulary.tokens[static_cast<size_t>(bos)]);
  const json special{{"SpecialToken", {{"id", token}, {"type_id", 0}}}};
  const json text{{"Sequence", {{"id", "A"}, {"type_id", 0}}}};
  const json ids{{"id", token}, {"ids", {bos}}, {"tokens", {token}}};
  return {{"type", "TemplateProcessing"},
          {"single", json::array({special, text})},
          {"pair", json::array({special, text})},
          {"special_tokens", {{token, ids}}}};
}

std::string tokenizer_json(const Gguf& file, const GgufVocabulary& vocabulary) {
  json ids = json::object(), added = json::array(), merges = json::array();
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    if (vocabulary.is_added(id)) added.push_back(added_token(vocabulary, id));
    if (vocabulary.is_added(id) || vocabulary.kinds[id] == unused) continue;  // unused: rows that fill the embedding
    const auto [known, is_new] = ids.emplace(std::string(vocabulary.tokens[id]), id);
    require(is_new, "{}: tokenizer.ggml.tokens has `{}` twice, as {} and {}. {}", file.where(),
            printable(vocabulary.tokens[id]), known.value().get<size_t>(), id, kConvertAgain);
  }
  const std::vector<std::string_view>& pairs = file.texts("tokenizer.ggml.merges");
  for (size_t i = 0; i < pairs.size(); ++i) merges.push_back(merge_of(file, pairs[i], i));
  PreTokenizerKind kind = pre_tokenizer_kind(file);
  const json tokenizer{{"version", "1.0"},
                       {"truncation", nullptr},
                       {"padding", nullptr},
                       {"added_tokens", std::move(added)},
                       {"normalizer", kind.nfc ? json{{"type", "NFC"}} : json()},
                       {"pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", std::move(kind.stages)}}},
                       {"post_processor", post_processor(file, vocabulary)},
                       {"decoder", bytes(true)},
                       {"model",
                        {{"type", "BPE"},
                         {"dropout", nullptr},
                         {"unk_token", nullptr},
                         {"continuing_subword_prefix", nullptr},
                         {"end_of_word_suffix", nullptr},
                         {"fuse_unk", false},
                         {"byte_fallback", false},
                         {"ignore_merges", kind.ignore_merges},
                         {"vocab", std::move(ids)},
                         {"merges", std::move(merges)}}}};
  return tokenizer.dump();
}

// ---- llama: a sentencepiece model, in protobuf's wire format (sentencepiece_model.proto) ----

// A message under construction: fields in the order in which they are put.
class Message {
 public:
  void put(int field, std::string_view text) {
    tag(field, 2);
    number(text.size());
    bytes_ += text;
  }
  void put(int field, const Message& message) { put(field, std::string_view(message.bytes_)); }
  void put(int field, int64_t value) {
    tag(field, 0);
    number(static_cast<uint64_t>(value));
  }
  void put(int field, float value) {
    tag(field, 5);
    const auto bits = std::bit_cast<uint32_t>(value);
    for (int i = 0; i < 4; ++i) bytes_ += static_cast<char>(bits >> 8 * i & 255);
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void tag(int field, int wire_type) { number(static_cast<uint64_t>(field) << 3 | static_cast<uint64_t>(wire_type)); }
  void number(uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_ += static_cast<char>((value & 127) | 128);
    bytes_ += static_cast<char>(value);
  }

  std::string bytes_;
};

std::string tokenizer_model(const Gguf& file, const GgufVocabulary& vocabulary) {
  const std::vector<double>& scores = file.numbers("tokenizer.ggml.scores");
  require(scores.size() == vocabulary.tokens.size(),
          "{}: tokenizer.ggml.tokens has {} tokens, tokenizer.ggml.scores {} scores. {}", file.where(),
          vocabulary.tokens.size(), scores.size(), kConvertAgain);
  Message model, trainer, normalizer;
  bool byte_fallback = false;
  for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
    Message piece;
    piece.put(1, vocabulary.tokens[id]);
    piece.put(2, static_cast<float>(scores[id]));
    piece.put(3, vocabulary.kinds[id]);
    byte_fallback |= vocabulary.kinds[id] == byte;
    model.put(1, piece);
  }
  trainer.put(3, int64_t{2});  // byte pair encoding
  trainer.put(4, std::ssize(vocabulary.tokens));
  trainer.put(35, int64_t{byte_fallback});
  const std::vector<std::pair<const char*, int>> roles{{"unknown", 40}, {"bos", 41}, {"eos", 42}, {"padding", 43}};
  for (const auto& [role, field] : roles) {
    const int64_t id = special_id(file, vocabulary, role);
    trainer.put(field, id);
    if (id >= 0) trainer.put(field + 5, vocabulary.tokens[static_cast<size_t>(id)]);  // unk_piece = 45, ...
  }
  normalizer.put(1, "identity");
  normalizer.put(3, int64_t{file.boolean("tokenizer.ggml.add_space_prefix", true)});
  normalizer.put(4, int64_t{file.boolean("tokenizer.ggml.remove_extra_whitespaces", false)});
  normalizer.put(5, int64_t{1});  // spaces are written ▁
  model.put(2, trainer);
  model.put(3, normalizer);
  return model.bytes();
}

// ---- which tokens begin and end a text ----

std::string tokenizer_config(const Gguf& file, const GgufVocabulary& vocabulary, bool is_sentencepiece) {
  json config{{"add_bos_token", adds_bos(file, is_sentencepiece)}};
  for (const char* role : {"bos", "eos"}) {
    const int64_t id = special_id(file, vocabulary, role);
    if (id >= 0) config[std::string(role) + "_token"] = vocabulary.tokens[static_cast<size_t>(id)];
  }
  if (is_sentencepiece) {
    json added = json::object();
    for (size_t id = 0; id < vocabulary.tokens.size(); ++id) {
      if (vocabulary.is_added(id)) added[std::to_string(id)] = added_token(vocabulary, id);
    }
    config["added_tokens_decoder"] = std::move(added);
  }
  if (file.has("tokenizer.chat_template")) config["chat_template"] = file.text("tokenizer.chat_template");
  return config.dump(2) + "\n";
}

// A text ends at any of them, as llama.cpp ends it.
std::string generation_config(const Gguf& file, const GgufVocabulary& vocabulary) {
  std::vector<int64_t> ends;
  for (const char* role : {"eos", "eot", "eom"}) {
    const int64_t id = special_id(file, vocabulary, role);
    if (id >= 0 && std::find(ends.begin(), ends.end(), id) == ends.end()) ends.push_back(id);
  }
  return json{{"eos_token_id", ends}}.dump(2) + "\n";
}

}  // namespace

std::map<std::string, std::string> gguf_tokenizer(const Gguf& file) {
  const std::string model = file.text("tokenizer.ggml.model");
  require(model == "gpt2" || model == "llama",
          "{}: tokenizer.ggml.model `{}` is not implemented. Use a model with one of: gpt2, llama.", file.where(),
          printable(model));
  const GgufVocabulary vocabulary(file);
  std::map<std::string, std::string> out;
  if (model == "gpt2") {
    out["tokenizer.json"] = tokenizer_json(file, vocabulary);
  } else {
    out["tokenizer.model"] = tokenizer_model(file, vocabulary);
  }
  out["tokenizer_config.json"] = tokenizer_config(file, vocabulary, model == "llama");
  out["generation_config.json"] = generation_config(file, vocabulary);
  return out;
}

}  // namespace core
