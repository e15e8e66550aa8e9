// What a model stores, computes and reads, and which codes it has: everything of a result that needs each block once.
#pragma once

#include <optional>
#include <string>

#include "core/walk.h"

namespace experiments {

inline constexpr int64_t kKvTokens = 8192;

struct Bill {
  core::Cost all;                        // the whole model; a tied embedding once
  core::Cost covered;                    // the linears that have codes, the head among them; an embedding is no linear
  std::optional<std::string> code_hash;  // of all codes, in the order of the blocks; none without codes
  double parameters_at_4096 = 0;  // bits per covered weight that the parameters would cost on linears of 4096 × 4096
  double mac_multiplier = 1;      // MACs per token relative to using every linear once
  int64_t kv_bytes = 0;           // keys and values of a context of kKvTokens, in 16 bits
};

inline int64_t stored_bits(const core::Cost& cost) { return cost.code_bits + cost.parameter_bits + cost.dense_bits; }

// Loads every block through `source`, one after the other. The ends must be loaded. cache_bytes: as of
// core::bill_of_block.
Bill bill_of(core::Model& model, core::BlockSource& source, int64_t cache_bytes = 0);

}  // namespace experiments
