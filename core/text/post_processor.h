// The post-processor of tokenizer.json: the special tokens that `tokenizer(text)` of transformers puts around a text.
// Implemented: ByteLevel (which changes offsets only), TemplateProcessing, BertProcessing, RobertaProcessing, and a
// Sequence of these.
#pragma once

#include <cstdint>
#include <vector>

#include "core/text/json_node.h"
#include "core/text/tokenizer.h"

namespace core {

struct Surroundings {
  std::vector<int32_t> before, after;  // ids in front of the text and behind it
};

// From the member "post_processor". Throws UserError naming a type that is not implemented, or a broken template.
Surroundings read_post_processor(const JsonNode& json);

// BOS as the post-processor has it: the token in front of a text. Throws UserError when several stand there.
SpecialTokens begins_as(const JsonNode& json);

}  // namespace core
