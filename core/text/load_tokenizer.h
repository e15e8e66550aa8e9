// Which kind of tokenizer a model directory has, and what its other files say about BOS and EOS.
#pragma once

#include <memory>
#include <string>

#include "core/text/model_texts.h"
#include "core/text/tokenizer.h"

namespace core {

// The tokenizer of a model, a directory or a GGUF file: tokenizer.json, else tokenizer.model; the latter first when the
// former is no more than its mirror (model.byte_fallback, as Llama 2 has it). BOS is the token that the post-processor
// of tokenizer.json puts in front of a text; else bos_token of tokenizer_config.json (a string or an AddedToken
// object), else the sentencepiece model's, else bos_token_id of config.json or generation_config.json. Whether a text
// begins with it says the post-processor of tokenizer.json or, where there is no such file, add_bos_token of
// tokenizer_config.json; as in transformers 5. A line is logged when the two disagree. A text that a model writes ends
// at each eos_token_id (a number or a list) of generation_config.json, else of config.json, as in `generate` of
// transformers; else at eos_token of tokenizer_config.json, else at the sentencepiece model's. Throws UserError naming
// the file when there is none, when it is corrupt, or when it needs a feature we lack.
std::unique_ptr<Tokenizer> load_tokenizer(const ModelTexts& texts);
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model);

}  // namespace core
