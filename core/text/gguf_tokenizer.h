// The tokenizer inside of a GGUF file, as the files of the Hugging Face folder would hold it: `gpt2` (byte-level BPE)
// becomes a tokenizer.json, `llama` (sentencepiece) a tokenizer.model; tokenizer_config.json and generation_config.json
// say which tokens begin and end a text.
#pragma once

#include <map>
#include <string>

#include "core/io/gguf.h"

namespace core {

// Contents by file name. Errors (UserError): another kind of tokenizer or of pre-tokenizer, by name; broken tokens.
std::map<std::string, std::string> gguf_tokenizer(const Gguf& file);

}  // namespace core
