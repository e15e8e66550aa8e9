#include "replication/viterbi.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "core/simd.h"

namespace replication {

namespace {

constexpr float kUnreachable = 1e30f;
constexpr int64_t kRescale = 256;  // steps after which the least cost is taken off all, so that floats stay exact

// The trellis as the steps read it. A window is its newest symbol q, its oldest symbol o and the middle m, in which
// newer symbols are in higher bits. State before a step: m · K + o; after it: q · M + m.
struct Laid {
  int64_t symbols, middles;  // K = 2^k and M = 2^(L − 2k)
  std::vector<float> level;  // [K (q), K (o), M]

  int64_t states() const { return symbols * middles; }
};

Laid lay(const Trellis& trellis) {
  const int64_t k = trellis.bits, length = trellis.window_bits / k;
  TORCH_CHECK(k >= 1 && k <= 4 && trellis.window_bits % k == 0 && length >= 2, "no trellis of ", k, " and ",
              trellis.window_bits, " bits");
  Laid laid{int64_t{1} << k, int64_t{1} << (trellis.window_bits - 2 * k), {}};
  laid.level.resize(int64_t{1} << trellis.window_bits);
  const int64_t mask = laid.symbols - 1;
  for (int64_t window = 0; window < static_cast<int64_t>(laid.level.size()); ++window) {
    int64_t middle = 0;
    for (int64_t r = 1; r < length - 1; ++r) middle = middle << k | (window >> (k * r) & mask);
    const int64_t newest = window & mask, oldest = window >> (trellis.window_bits - k);
    laid.level[(newest * laid.symbols + oldest) * laid.middles + middle] = trellis.level[window];
  }
  return laid;
}

constexpr int64_t kLanes = 8;  // states that go side by side; wider vectors than the machine has are taken apart badly
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// The types of one lane, and how both kinds are read and written.
template <class T, class P>
inline __attribute__((always_inline)) void load(T& to, const P* from) {
  std::memcpy(&to, from, sizeof(T));
}
inline __attribute__((always_inline)) void narrow(uint8_t* to, const Ints& from) {
  const Bytes bytes = __builtin_convertvector(from, Bytes);
  std::memcpy(to, &bytes, sizeof(bytes));
}
inline __attribute__((always_inline)) void narrow(uint8_t* to, const int32_t& from) {
  *to = static_cast<uint8_t>(from);
}

// One step for the states q · M + m, … of as many lanes as the types have: the least cost of getting there, and the
// oldest symbol on the way. cost, level: at (o, m), rows of M; K of them.
template <int K, class F, class I>
inline __attribute__((always_inline)) void arrive(float x, const float* cost, const float* level, int64_t M,
                                                  float* next, uint8_t* oldest) {
  F best, t, before;
  load(t, level);
  load(before, cost);
  F error = x - t;
  best = before + error * error;
  I from = I{} + 0;
#pragma GCC unroll 16
  for (int o = 1; o < K; ++o) {
    load(t, level + o * M);
    load(before, cost + o * M);
    error = x - t;
    const F found = before + error * error;
    from = found < best ? I{} + o : from;
    best = found < best ? found : best;
  }
  std::memcpy(next, &best, sizeof(best));
  narrow(oldest, from);
}

// All states. cost: [K (o), M] before; next, oldest: [K (q), M] after.
template <int K>
inline __attribute__((always_inline)) void step(const Laid& laid, float x, const float* cost, float* next,
                                                uint8_t* oldest) {
  const int64_t M = laid.middles;
  for (int64_t q = 0; q < K; ++q) {
    const float* level = laid.level.data() + q * K * M;
    const int64_t at = q * M;
    int64_t m = 0;
    for (; m + kLanes <= M; m += kLanes) {
      arrive<K, Floats, Ints>(x, cost + m, level + m, M, next + at + m, oldest + at + m);
    }
    for (; m < M; ++m) arrive<K, float, int32_t>(x, cost + m, level + m, M, next + at + m, oldest + at + m);
  }
}

// [M, K] -> [K, M]: the states after a step in the order that the next step reads.
template <int K>
inline __attribute__((always_inline)) void regroup(const float* __restrict next, int64_t M, float* __restrict cost) {
  for (int64_t m = 0; m < M; ++m) {
    for (int64_t o = 0; o < K; ++o) cost[o * M + m] = next[m * K + o];
  }
}

void rescale(float* cost, int64_t states) {
  const float least = *std::min_element(cost, cost + states);
  for (int64_t s = 0; s < states; ++s) cost[s] -= least;
}

// Memory of one thread.
struct Scratch {
  std::vector<float> cost, next;  // [states]
  std::vector<uint8_t> oldest;    // [length, states]

  Scratch(int64_t states, int64_t length) : cost(states), next(states), oldest(length * states) {}
};

template <int K>
inline __attribute__((always_inline)) void all_steps(const Laid& laid, const float* x, int64_t length,
                                                     Scratch& scratch) {
  const int64_t states = laid.states();
  std::fill(scratch.cost.begin(), scratch.cost.end(), kUnreachable);
  scratch.cost[0] = 0;
  for (int64_t t = 0; t < length; ++t) {
    step<K>(laid, x[t], scratch.cost.data(), scratch.next.data(), scratch.oldest.data() + t * states);
    if ((t + 1) % kRescale == 0) rescale(scratch.next.data(), states);
    regroup<K>(scratch.next.data(), laid.middles, scratch.cost.data());
  }
}

REFRAIN_SIMD void steps_of_1(const Laid& laid, const float* x, int64_t length, Scratch& scratch) {
  all_steps<2>(laid, x, length, scratch);
}
REFRAIN_SIMD void steps_of_2(const Laid& laid, const float* x, int64_t length, Scratch& scratch) {
  all_steps<4>(laid, x, length, scratch);
}
REFRAIN_SIMD void steps_of_3(const Laid& laid, const float* x, int64_t length, Scratch& scratch) {
  all_steps<8>(laid, x, length, scratch);
}
REFRAIN_SIMD void steps_of_4(const Laid& laid, const float* x, int64_t length, Scratch& scratch) {
  all_steps<16>(laid, x, length, scratch);
}

// The way back from the cheapest last state.
void trace(const Laid& laid, const Scratch& scratch, int64_t length, uint8_t* codes) {
  const int64_t K = laid.symbols, M = laid.middles, states = laid.states();
  int64_t state = std::min_element(scratch.next.begin(), scratch.next.end()) - scratch.next.begin();
  for (int64_t t = length - 1; t >= 0; --t) {
    codes[t] = static_cast<uint8_t>(state / M);
    state = state % M * K + scratch.oldest[t * states + state];
  }
}

}  // namespace

void viterbi(const Trellis& trellis, const float* x, int64_t sequences, int64_t length, uint8_t* codes) {
  if (length == 0) return;
  const Laid laid = lay(trellis);
  constexpr decltype(&steps_of_1) kSteps[] = {steps_of_1, steps_of_2, steps_of_3, steps_of_4};
  at::parallel_for(0, sequences, 1, [&](int64_t begin, int64_t end) {
    Scratch scratch(laid.states(), length);
    for (int64_t i = begin; i < end; ++i) {
      kSteps[trellis.bits - 1](laid, x + i * length, length, scratch);
      trace(laid, scratch, length, codes + i * length);
    }
  });
}

double viterbi_reference(const Trellis& trellis, const float* x, int64_t length, uint8_t* codes) {
  const int64_t k = trellis.bits, K = int64_t{1} << k, states = int64_t{1} << (trellis.window_bits - k);
  constexpr double kNever = std::numeric_limits<double>::infinity();
  std::vector<double> cost(states, kNever), next(states);  // a state is the low bits of a window, here
  std::vector<uint8_t> oldest(length * states);
  cost[0] = 0;
  for (int64_t t = 0; t < length; ++t) {
    std::fill(next.begin(), next.end(), kNever);
    for (int64_t window = 0; window < states * K; ++window) {
      const double error = static_cast<double>(x[t]) - trellis.level[window];
      const double found = cost[window >> k] + error * error;
      const int64_t state = window % states;
      if (found < next[state]) {
        next[state] = found;
        oldest[t * states + state] = static_cast<uint8_t>(window / states);
      }
    }
    std::swap(cost, next);
  }
  int64_t state = std::min_element(cost.begin(), cost.end()) - cost.begin();
  const double least = cost[state];
  for (int64_t t = length - 1; t >= 0; --t) {
    codes[t] = static_cast<uint8_t>(state % K);
    state = (oldest[t * states + state] * states + state) >> k;
  }
  return least;
}

double sequence_error(const Trellis& trellis, const float* x, int64_t length, const uint8_t* codes) {
  const int64_t mask = (int64_t{1} << trellis.window_bits) - 1;
  double sum = 0;
  for (int64_t t = 0, window = 0; t < length; ++t) {
    window = (window << trellis.bits | codes[t]) & mask;
    const double error = static_cast<double>(x[t]) - trellis.level[window];
    sum += error * error;
  }
  return sum;
}

}  // namespace replication
