// Replicas of a block share everything with it until they are given something of their own.
#pragma once

#include <vector>

#include "core/model.h"

namespace replication {

// Every quantized linear of the replica gets parameters of its own on the codes of the block, which stay where they
// are: a copy of the block's, every scale of which is multiplied by 1 + jitter · N(0, 1) and rounded to what is stored.
// Drawn from (seed, path of the linear).
void give_own_parameters(core::Block& block, core::Block& replica, double jitter, uint64_t seed);

// Every norm of the replica gets a copy of the block's weight.
void give_own_norms(core::Block& replica);

// The block gets the mean of every parameter of its linears and norms over itself and its replicas, as it is stored;
// the replicas share it again.
void average_parameters(core::Block& block, const std::vector<core::Block*>& replicas);

}  // namespace replication
