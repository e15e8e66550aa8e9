// How byte-level BPE cuts a text into words, by the names that llama.cpp has for it (tokenizer.ggml.pre) and as
// pre_tokenizer of a tokenizer.json.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace core {

// tokenizer.ggml.token_type, the kinds of sentencepiece.
enum GgufTokenKind : int32_t { normal = 1, unknown = 2, control = 3, user_defined = 4, unused = 5, byte = 6 };

struct GgufPreTokenizer {
  nlohmann::json stages;  // of a Sequence
  bool nfc = false;       // the normalizer
  bool ignore_merges = false;
};

std::vector<std::string> gguf_pre_tokenizers();  // the names that are known
std::optional<GgufPreTokenizer> gguf_pre_tokenizer(const std::string& name);

nlohmann::json byte_level(bool use_regex);  // a stage, or the decoder

// The name of what a tokenizer.json says; none: it has none that is known.
std::optional<std::string> gguf_pre_tokenizer_of(const nlohmann::json& tokenizer);

}  // namespace core
