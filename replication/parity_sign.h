// Parity-sign replicas (S1): ŵ_t = s_g Σ_{r<P} α_r c(q_{t−r}) (−1)^parity(M_r & window_t) with the centred code
// c(q) = q − (2^b − 1)/2. P uses of the same codes, each shifted by one symbol and with a sign that all codes of the
// window decide: a trellis code (cf. QTIP, Tseng et al. 2024, arXiv 2406.11235) at the bits of the plain grid.
#pragma once

#include "replication/window_format.h"

namespace replication {

// Which codes of the window decide a replica's sign, and its weight. Bit 0 of a mask is the lowest of the newest code.
struct ParityCode {
  int64_t bits, replicas, window_bits;
  std::vector<uint32_t> masks;  // [P]
  std::vector<float> alpha;     // [P], for weights of variance 1
};

// Those of the study for 2 bits, and what tools/window_codes.py has found for others.
const std::vector<ParityCode>& parity_codes();

// [2^L, P]
at::Tensor parity_features(int64_t bits, int64_t window_bits, const std::vector<uint32_t>& masks);

// Error: there are no masks for these numbers; the message lists what there is.
WindowFamily parity_sign(int64_t bits, int64_t replicas, int64_t window_bits, const std::string& path);

}  // namespace replication
