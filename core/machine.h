// What the machine offers: threads worth using, memory in use, and its description for results.
#pragma once

#include <cstdint>
#include <string>

namespace core {

// Threads that compute well here: the least of physical (on Apple silicon: performance) cores, the cores this process
// may run on, and the quota of its control group; at least 1.
int64_t usable_threads();

// Whether the processor has instructions for products of bfloat16.
bool multiplies_bfloat16();

std::string cpu_name();     // as the system calls it, "unknown" if it does not
int64_t memory_bytes();     // physical memory, or the limit of this process's control group if that is less
std::string system_name();  // e.g. "Linux 6.1.0 x86_64"

// Begins a new peak after giving freed memory back; where the system cannot, the peak is that of the process.
void reset_peak_memory();
// From now on a freed tensor of 128 KB or more goes back to the system at once. Otherwise the allocator keeps it for
// later, and what a streamed run has dropped piles up (measured: 1.5 times to 3 times the peak; below 4 MB alone, codes
// of experts and what they decode to, up to 38 MB over 16 experts). Costs page faults.
void return_freed_tensors();
int64_t peak_memory_bytes();  // most resident memory since then

}  // namespace core
