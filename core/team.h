// Loops of microseconds that are shared by threads. Between two of them the threads spin for as long as the gap in a
// forward pass of one token lasts, and then sleep; whoever is free takes the next part of a loop, so that the caller
// never waits for a thread that does not run. (OpenMP shares a loop before it starts, and takes a few microseconds to.)
#pragma once

#include <c10/util/FunctionRef.h>

#include <cstdint>

namespace core {

// Calls work(begin, end) for ranges that make up [0, count), of at least `grain` each but for the last; on as many
// threads as at::get_num_threads() says. On the caller alone where it is in a parallel region, where another thread's
// loop is running, and where there is one range only. `work` throws nothing and starts no other loop.
void share_ranges(int64_t count, int64_t grain, c10::function_ref<void(int64_t, int64_t)> work);

}  // namespace core
