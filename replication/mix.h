// Controls at equal bits: the same method without replication, at the bits that the replica stores. Two neighbouring
// levels (group sizes, bit widths, ranks of a low-rank branch) are mixed over the linears, the higher one for those
// that quantization hurts most, so that together they store no more than the replica and at most 1 % less.
#pragma once

#include <memory>
#include <vector>

#include "replication/config.h"
#include "replication/levels.h"

namespace replication {

// The levels of config.control that these linears allow. Error: NoControl.
std::unique_ptr<Levels> make_levels(const ReplicationConfig& config, const std::vector<Mixed>& linears);

// Level of each linear, in their order, for `target` bits in all. ranked: whether the sensitivities are known; if not,
// all that can be said without them is checked. elsewhere: bits of the replica that the control leaves as they are;
// they count where the two are compared. Error: NoControl.
std::vector<int64_t> mixed_levels(const ReplicationConfig& config, const Levels& all, const std::vector<Mixed>& linears,
                                  int64_t target, uint64_t seed, bool ranked, int64_t elsewhere = 0);

}  // namespace replication
