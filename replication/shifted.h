// Shifted replicas (S2): ŵ_t = s_g Σ_{r<R} f_r(q_{t−r}), R uses of the same codes, each shifted by one symbol and with
// a table of its own. With linear f_r it would gain nothing; with these it is trellis-coded quantization (Marcellin and
// Fischer 1990). R = 1 would be an ordinary codebook.
#pragma once

#include "replication/window_format.h"

namespace replication {

// The tables, one after the other: [R · 2^bits]. Error: none are known for these numbers.
WindowFamily shifted(int64_t bits, int64_t replicas, const std::string& path);

// [2^(R · bits), R · 2^bits]: one at the entry of every table that a window reads.
at::Tensor shifted_features(int64_t bits, int64_t replicas);

}  // namespace replication
