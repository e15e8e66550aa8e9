// Running every batch of a text through something. A small model's products are too short to be shared by all threads:
// they would wait for each other more than they compute. So small batches run side by side, one thread each, and large
// ones one after the other with all threads on each.
#pragma once

#include <cstdint>
#include <functional>

namespace core {

// Whether `count` batches of `values` hidden values each run side by side. Depends on its arguments and on the number
// of threads only, so that results do.
bool side_by_side(int64_t count, int64_t values);

// Calls work(i) once for every batch i in [0, count), with the caller's gradient and inference mode. Batch 0 is
// finished before another one starts: what a forward pass makes at its first call (tables of angles) is there for the
// others. `work` must not write to anything that another batch reads. An exception of `work` leaves through the caller.
void for_each_batch(int64_t count, int64_t values, const std::function<void(int64_t)>& work);

}  // namespace core
