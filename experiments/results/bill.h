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
  double parameters_at_4096 = 0;  // bits per covered weight that the parameters would cost on linears of 4096 × 4096
  double mac_multiplier = 1;      // MACs per token relative to using every linear once
};

// Loads every block through `source`, one after the other. The ends must be loaded.
Bill bill_of(core::Model& model, core::BlockSource& source);

}  // namespace experiments
