// The corpus `generated`: text that the reference model itself writes, so that calibration and training see what the
// model knows and no text that it may be adapted to (LLM-QAT, Liu et al. 2023, arXiv 2305.17888, section 3.1).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/text/tokenizer.h"
#include "experiments/inputs/model_files.h"

namespace experiments {

inline constexpr const char* kGenerated = "generated";
inline constexpr int kGeneratedVersion = 1;  // bumped by hand when ids change

// Refuses `generated` where the model is streamed: token by token, a block that is not in memory would be read again
// for each. where: of the message.
void require_resident(const Spec& spec, const ModelFiles& files, const std::string& where);

// `sequences` texts of `length` tokens, one after the other. Each begins with BOS (without one: a random token), and
// after an end of text again; every other token is drawn from all that the model holds possible, at temperature 1, with
// numbers of (seed, purpose, sequence) alone.
std::vector<int32_t> generated_ids(core::Model& model, const core::Tokenizer& tokenizer, int64_t sequences,
                                   int64_t length, uint64_t seed, const std::string& purpose, bool quiet = true);

// The same of the model of these files, which is loaded for it.
std::vector<int32_t> generated_ids(const Spec& spec, const ModelFiles& files, int64_t sequences, int64_t length,
                                   const std::string& purpose);

}  // namespace experiments
