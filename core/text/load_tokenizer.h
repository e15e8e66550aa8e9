// Which kind of tokenizer a model directory has, and what its other files say about BOS and EOS.
#pragma once

#include <memory>
#include <string>

#include "core/text/tokenizer.h"

namespace core {

// The tokenizer of a model directory: tokenizer.json, else tokenizer.model; the latter first when the former is no more
// than its mirror (model.byte_fallback, as Llama 2 has it). BOS and EOS come from tokenizer_config.json
// (strings or AddedToken objects), else from the sentencepiece model, else from config.json.
// Throws UserError naming the file when there is none, when it is corrupt, or when it needs a feature we lack.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& model_directory);

}  // namespace core
