// The cheapest sequence of symbols under a format that looks at a window of them (Viterbi 1967, Forney 1973). Symbol
// q_t has k bits, the window at t is the L bits of q_t and the L/k − 1 symbols before it, level[window] is what it
// stands for; symbols before the first are 0. The initial_format finds the symbols of least Σ (x_t − level[window_t])².
//
// The state is the window without its newest symbol: 2^(L−k) of them, 2^k ways into each. States are numbered with the
// newest symbol in the HIGH bits, unlike windows, so that one step runs along contiguous memory for all states at once.
#pragma once

#include <cstdint>

namespace replication {

struct Trellis {
  int64_t bits;         // k, 1 to 4
  int64_t window_bits;  // L, a multiple of k, at least 2 k
  const float* level;   // [2^L], the newest symbol in the low bits of the index
};

// x: [sequences, length] -> codes of the same shape. Sequences are shared among threads; the result does not depend on
// how. Of equally good sequences always the same one.
void viterbi(const Trellis& trellis, const float* x, int64_t sequences, int64_t length, uint8_t* codes);

// The same for one sequence in plain loops and double: the definition. Returns the least sum of squares.
double viterbi_reference(const Trellis& trellis, const float* x, int64_t length, uint8_t* codes);

// Σ (x_t − level[window_t])² of given codes, in double.
double sequence_error(const Trellis& trellis, const float* x, int64_t length, const uint8_t* codes);

}  // namespace replication
