// How fast this machine reads memory, measured: the roof under which tokens are generated.
#pragma once

#include <cstdint>

namespace core {

// Bytes of the last-level cache, 0 where the system does not tell.
int64_t last_level_cache_bytes();

// Bytes of a buffer that no cache holds: four times the last level, at least 256 MB, at most an eighth of the memory.
int64_t uncached_bytes();

// Bytes per second at which all threads of LibTorch together read a buffer of `bytes` from front to back: the best of
// `passes` passes. The buffer is made, touched by the threads that read it, and dropped.
double read_bandwidth(int64_t bytes, int passes = 5);

}  // namespace core
