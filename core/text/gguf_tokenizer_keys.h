// The tokenizer of a model as keys of a GGUF file: the other way of core/text/gguf_tokenizer.h.
#pragma once

#include "core/io/gguf_writer.h"
#include "core/text/model_texts.h"
#include "core/text/tokenizer.h"

namespace core {

// rows: of the embedding, of which those without a token are listed as unused. Errors (UserError): a kind of tokenizer
// or of pre-tokenizer that llama.cpp has no name for, more tokens than rows.
GgufKeyValues gguf_tokenizer_keys(const ModelTexts& texts, const Tokenizer& tokenizer, int64_t rows);

}  // namespace core
