// Choosing the next token: greedily, or at random among the likeliest (nucleus sampling; Holtzman et al. 2019, arXiv
// 1904.09751).
#pragma once

#include <cstdint>
#include <span>

#include "core/random.h"

namespace core {

struct Sampling {
  double temperature = 0;  // logits are divided by it; 0: always the likeliest token
  double top_p = 1;        // the likeliest tokens that together have this much probability, the others never; (0, 1]
};

// Index of the chosen logit; of equal ones the lower index counts as likelier. One number is drawn unless temperature
// is 0. UserError when no logit is a number.
int64_t sample(std::span<const float> logits, const Sampling& sampling, Random& random);

}  // namespace core
