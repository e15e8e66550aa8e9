// What runtime.prefix stands for: which tokens, and their keys and values in full precision.
#pragma once

#include <map>
#include <string>

#include "core/text/windows.h"
#include "experiments/inputs/model_files.h"

namespace experiments {

inline constexpr int kPrefixVersion = 1;  // bumped by hand when tokens that auto finds, or their keys, change

// The most tokens that the configuration may come to stand for, or those of the prefix that a checkpoint was made with.
// What a text may be long is the model's context without them. Errors, for which no tensor is needed: a token that the
// model does not have, a prefix that leaves no room for a text, a model that is a quantized checkpoint.
int64_t prefix_length(const Spec& spec, const ModelFiles& files, const core::Shape& shape);

// The files with the prefix of the configuration. text: the calibration text, which is read for `auto`. Every block
// runs once on the prefix, and for `auto` on some windows of the text too. Error: `auto` finds nothing, and the
// tokenizer has no BOS.
ModelFiles with_prefix(const Spec& spec, const ModelFiles& files, const core::Windows* text);

// How many of these hidden states, [B, T, D], are 64 times as large (in norm) as the median of their window, per token
// id of `ids` [B, T]; the first token of a window does not count.
std::map<int64_t, int64_t> large_tokens(const at::Tensor& hidden, const at::Tensor& ids);

}  // namespace experiments
