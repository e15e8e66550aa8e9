// What a model stores, computes and reads, and which codes it has: everything of a result that needs each block once.
#pragma once

#include <optional>
#include <string>

#include "core/walk.h"

namespace experiments {

struct Bill {
  core::Cost all;                        // the whole model; a tied embedding once
  core::Cost covered;                    // the linears that have codes, the head among them; an embedding is no linear
  std::optional<std::string> code_hash;  // of all codes, in the order of the blocks; none without codes
  double mac_multiplier = 1;             // MACs per token relative to using every linear once
};

inline int64_t stored_bits(const core::Cost& cost) { return cost.code_bits + cost.parameter_bits + cost.dense_bits; }

// Loads every block through `source`, one after the other. The ends must be loaded.
Bill bill_of(core::Model& model, core::BlockSource& source);

}  // namespace experiments
